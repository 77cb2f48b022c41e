"""Beam search: of all beginnings of an answer the most probable go on side by side.

At each step every token of the vocabulary is a candidate to continue each beam. Of all candidates of a
prompt, the best that end go to the sequences found, and the best that do not are its next beams. The
device reads one token a beam and ranks the candidates in one compiled function; the host follows the
few best ones, because where one ends may depend on its text.

All beams of a prompt share its past. What came since lies in `recent`, which every step makes anew
anyway: there the beams are put in their new order, and `recent` grows instead of being folded into a
past that would have to be put in order too.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gpt.generation.answers import GrowingAnswer
from keras_gpt.generation.batch import filled_up, read_at_once
from keras_gpt.generation.cache import batch_bucket, empty_recent, grow_cache, length_bucket
from keras_gpt.generation.compiled import compiled, kept_with
from keras_gpt.generation.control import (
    Changes,
    changed_logits,
    changes_of,
    forced_now,
    seen_with,
)
from keras_gpt.generation.decode import Chosen
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row, taken, tensor
from keras_gpt.generation.search_options import BeamOptions
from keras_gpt.generation.steps import decode_steps
from keras_gpt.key_values import KeyValues


class Found(NamedTuple):
    """A whole sequence."""

    answer: GrowingAnswer
    score: float  # see `BeamOptions`


class Candidates(NamedTuple):
    """The best continuations of every prompt, best first, each (prompts, count)."""

    sums: Any  # float32, the log-probability of the whole answer so far; -inf is no candidate
    beams: Any  # int32, which of the prompt's beams each continues
    tokens: Any  # int32, with what


def beam_search(
    model: Decoder, rows: Sequence[Row], starts: Sequence[GrowingAnswer], options: BeamOptions
) -> list[list[Found]]:
    """Search the sequences of the best scores for every prompt.

    Args:
        model: gives the logits.
        rows: the prompts; all with the same settings, each fits the context with its new tokens.
        starts: each prompt's answer before its first token.
        options: how to search.

    Returns:
        For each row what was found, the best first: `num_beams` sequences, or as many as there are.

    Source: the search of transformers' `generate` (5.23).
    """
    searches = [_Search(*pair, options) for pair in zip(rows, starts, strict=True)]
    beams = _Beams(model, rows, options.num_beams)
    live = list(range(len(rows)))
    candidates = beams.first()
    while True:
        going_on = [
            searches[index].take(*[part[place] for part in candidates])
            for place, index in enumerate(live)
        ]
        places = [place for place, each in enumerate(going_on) if each]
        if not places:
            return [search.found for search in searches]
        if batch_bucket(len(places)) < beams.size:
            beams.keep(places)
            live, going_on = [live[place] for place in places], [going_on[p] for p in places]
        candidates = beams.step(going_on)


class _Beam(NamedTuple):
    """A beginning of an answer."""

    answer: GrowingAnswer
    total: float  # its log-probability
    parent: int  # which of its prompt's beams it was before its last token
    token: int


class _Search:
    """The search for one prompt: its beams, and the best sequences found.

    Attributes:
        found: whole sequences, the best first.
    """

    def __init__(self, row: Row, start: GrowingAnswer, options: BeamOptions) -> None:
        self.found: list[Found] = []
        self._row = row
        self._options = options
        self._beams = [_Beam(start, 0.0, 0, 0)]
        self._length = 0  # of the beams, in new tokens

    def take(self, sums: np.ndarray, beams: np.ndarray, tokens: np.ndarray) -> list[_Beam]:
        """Take candidates, (count,) each and the best first; give the beams that go on."""
        if not self._beams:  # the search has ended, and others go on beside it
            return []
        self._length += 1
        is_last, width = self._length == self._row.max_new_tokens, self._options.num_beams
        going_on: list[_Beam] = []
        for rank, total in enumerate(sums.tolist()):
            if total == -np.inf or (rank >= width and len(going_on) == width):
                break
            parent, token = int(beams[rank]), int(tokens[rank])
            answer = self._beams[parent].answer.copy()
            answer.push(Chosen(token, token in self._row.stop_token_ids, None, None))
            if answer.has_stopped or is_last:
                # One that ends behind as many better ones as there are beams is not looked at.
                if rank < width:
                    self.found.append(Found(answer, self._options.score(total, self._length)))
            elif len(going_on) < width:
                going_on.append(_Beam(answer, total, parent, token))
        self.found = sorted(self.found, key=lambda each: -each.score)[:width]
        self._beams = going_on if going_on and self._may_find_better(going_on[0].total) else []
        return self._beams

    def _may_find_better(self, best: float) -> bool:
        """Say whether to go on, by the log-probability of the best beam."""
        options = self._options
        if len(self.found) < options.num_beams:
            return True
        if options.early_stopping is True:
            return False
        # A beam only becomes less probable. With a positive length penalty its score may rise all
        # the same; only "never" reckons with that.
        rises = options.early_stopping == "never" and options.length_penalty > 0
        length = self._row.max_new_tokens if rises else self._length
        return options.score(best, length) > self.found[-1].score


class _Beams:
    """What the model has read of all beams of all prompts.

    Attributes:
        size: how many prompts are computed, those that nobody looks at included.
    """

    def __init__(self, model: Decoder, rows: Sequence[Row], num_beams: int) -> None:
        rows = filled_up(rows)
        # Where every beam's best tokens are stop tokens, as many beams go on as before.
        count = max(2, 1 + len(set(rows[0].stop_token_ids))) * num_beams
        self._functions = _functions_of(model, count)
        self._context = model.config.context_length
        self._num_beams = num_beams
        self.size = len(rows)
        self._lengths = np.array([len(row.prompt) for row in rows], "int32")
        self._row = rows[0]  # for the settings, which are those of all
        self._changes = changes_of(rows, decode_steps(model).known, self._context)
        self._logits, self._past = read_at_once(model, rows)
        self._recent: list[KeyValues] = []
        self._read = 0  # new tokens of each beam

    def first(self) -> Candidates:
        """Give the candidates for the first token, and make room for every prompt's beams."""
        sums = tensor(np.zeros((self.size, 1)), "float32")
        candidates = self._functions.rank(self._logits, sums, *self._place(), self._changes)
        self._take(np.repeat(np.arange(self.size), self._num_beams))
        self._recent = empty_recent(self._past)
        return _on_host(candidates)

    def step(self, beams: Sequence[Sequence[_Beam]]) -> Candidates:
        """Read the last token of every prompt's beams; give the candidates for the next one."""
        shape = (self.size, self._num_beams)
        # Places without a beam compute something that never counts.
        parents, tokens = np.zeros(shape, "int32"), np.zeros(shape, "int32")
        sums = np.full(shape, -np.inf, "float32")
        for place, each in enumerate(beams):
            for column, beam in enumerate(each):
                parents[place, column], tokens[place, column] = beam.parent, beam.token
                sums[place, column] = beam.total
        parents += np.arange(self.size, dtype="int32")[:, None] * self._num_beams
        if self._read == ops.shape(self._recent[0].keys)[2]:
            self._recent = grow_cache(self._recent, length_bucket(self._read + 1, self._context))
        slots = np.full(parents.size, self._read)
        self._read += 1
        candidates, self._recent, seen = self._functions.follow(
            tensor(parents.reshape(-1), "int32"),
            tensor(tokens.reshape(-1), "int32"),
            tensor(sums, "float32"),
            tensor(self._lengths, "int32"),
            tensor(slots, "int32"),
            self._past,
            self._recent,
            *self._place(),
            self._changes,
        )
        if self._changes is not None:
            self._changes = Changes(self._changes.control, seen)
        return _on_host(candidates)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the beams of these prompts alone, in this order."""
        filled = np.array(filled_up(places))
        self.size = len(filled)
        rows = filled[:, None] * self._num_beams + np.arange(self._num_beams)
        self._take(rows.reshape(-1))

    def _take(self, rows: np.ndarray) -> None:
        places = tensor(rows, "int32")
        self._past, self._recent = taken(self._past, places), taken(self._recent, places)
        if self._changes is not None:
            self._changes = taken(self._changes, places)
        self._lengths = self._lengths[rows]

    def _place(self) -> tuple[Any, Any]:
        """Give how many new tokens there are, and the one that is forced now; -1 for none."""
        return tensor(self._read, "int32"), tensor(forced_now(self._row, self._read), "int32")


class _Functions(NamedTuple):
    rank: Callable[..., Candidates]
    follow: Callable[..., tuple[Candidates, list[KeyValues], Any]]


def _functions_of(model: Decoder, count: int) -> _Functions:
    """Give the compiled functions for so many candidates, made on first use and kept."""
    functions: _Functions = kept_with(
        model, f"_beam_functions_{count}", lambda: _make_functions(model, count)
    )
    return functions


def _make_functions(model: Decoder, count: int) -> _Functions:
    steps = decode_steps(model)

    def rank(logits: Any, sums: Any, step: Any, forced: Any, changes: Changes | None) -> Any:
        """Give the best candidates.

        Args:
            logits: (prompts * beams, vocab_size) float32.
            sums: (prompts, beams) float32, log-probabilities of the beams.
            step, forced, changes: as for `changed_logits`.
        """
        values = changed_logits(ops.log_softmax(logits, axis=-1), step, forced, changes)
        known = logits.shape[-1]
        totals = ops.reshape(sums, (-1, 1)) + values
        totals = ops.reshape(totals, (-1, sums.shape[1] * known))
        best, places = ops.top_k(totals, min(count, totals.shape[1]))
        places = ops.cast(places, "int32")
        return Candidates(best, places // known, places % known)

    def follow(
        parents: Any,
        tokens: Any,
        sums: Any,
        lengths: Any,
        slots: Any,
        past: Sequence[KeyValues],
        recent: Sequence[KeyValues],
        step: Any,
        forced: Any,
        changes: Changes | None,
    ) -> Any:
        """Put the beams in their new order, read a token of each, and rank what may follow.

        Args:
            parents: (prompts * beams,) int32, the row that each beam was in before.
            tokens: (prompts * beams,) int32.
            sums: as for `rank`.
            lengths, slots, past, recent: as for `GPT.step`.
            step, forced, changes: as for `rank`.
        """
        logits, recent = steps.next(tokens, lengths, slots, past, taken(recent, parents))
        seen = None
        if changes is not None:
            seen = seen_with(taken(changes.seen, parents), tokens)
            changes = Changes(changes.control, seen)
        return rank(logits, sums, step, forced, changes), recent, seen

    return _Functions(compiled(rank, model), compiled(follow, model))


def _on_host(candidates: Candidates) -> Candidates:
    return Candidates(*[ops.convert_to_numpy(part) for part in candidates])
