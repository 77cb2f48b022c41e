"""The compiled functions of decoding: read prompts, read more tokens, choose, fold."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_gpt.generation.acceptance import accept
from keras_gpt.generation.cache import (
    RECENT_SLOTS,
    empty_recent,
    fold,
    grow_past,
    keep_windows,
    length_bucket,
    longest,
)
from keras_gpt.generation.compiled import (
    assembled,
    compiled,
    compiled_for_all,
    kept_with,
    looped,
)
from keras_gpt.generation.control import choose_controlled
from keras_gpt.generation.layer_groups import LayerGroups
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.reordered import ReorderedMatrices
from keras_gpt.generation.rows import place, tensor
from keras_gpt.generation.sampling import Sampling, choose, probabilities
from keras_gpt.key_values import KeyValues, put_in_ring

# As many as OpenAI's API gives.
TOP_LOGPROBS = 20
# Of so many blocks XLA compiles several steps at once in acceptable time.
_MOST_BLOCKS_IN_A_LOOP = 32


class GoingOn(NamedTuple):
    """What stays the same over several steps."""

    lengths: Any  # (batch,) int32, how many tokens of each row are in `past`
    slots: Any  # (batch,) int32, where each row's first token goes in `recent`
    steps: Any  # (batch,) int32, how many tokens of each row were chosen before the first new one
    past: Sequence[KeyValues]
    sampling: Sampling
    last: Any  # (known,) bool, tokens after which a row may end
    live: Any  # (batch,) bool, rows that somebody looks at
    most: Any  # int32, how many steps; all rows have slots for them


class Several(NamedTuple):
    """What several steps give."""

    tokens: Any  # (steps, batch) int32
    logits: Any  # (batch, known), those that the last tokens were chosen from
    recent: Sequence[KeyValues]


class DecodeSteps:
    """The compiled functions of one model, each compiled once for each shape; those that read no
    weights once for all models, and blocks once for several groups of them.

    The loop of a batch's steps (`several`) is one program with all it calls, but for many blocks.
    Python's `generate` and the exported SavedModel run the same functions. A vocabulary may be larger
    than the tokenizer's (padded to a round number): what stands for no text is not chosen.

    Attributes:
        first: reads prompts; gives the logits after each row's last token, and the past.
        first_whole: does the same and keeps all of the past, in layers with a window too.
        keep_windows: the function of this name in `cache`, for what `first_whole` began.
        extend: reads more of each prompt; gives the logits after each row's last token, and all of
            the past with what it read.
        choose: chooses one token a row from logits.
        next: reads one token a row; gives the next one's logits, and `recent` anew. A batch calls
            it through `several`.
        read: reads several tokens a row; gives the logits after some of them, and `recent` anew.
        probabilities, accept: the functions of these names in `sampling` and `acceptance`.
        fold: moves `recent` behind `past`: (past, recent, lengths, slots), the new past.
        place: writes the one row of some tensors over a row of others; see `rows.place`.
        place_layers: does that to every layer's keys and values.
        choose_controlled: chooses from logits that are changed first.
        logprobs: gives log P of chosen tokens, and the most probable ones.
        score: gives -log P of each next token.
        copies: of matrices; `decode_steps` makes them again where weights were changed.
    """

    def __init__(self, model: Decoder) -> None:
        known = model.config.vocab_size if model.tokenizer is None else model.tokenizer.vocab_size
        self.known = known

        # Elsewhere a function is compiled whole, whatever it is made of.
        is_grouped = keras.backend.backend() == "tensorflow"
        self.copies = copies = ReorderedMatrices()
        blocks = LayerGroups(model, copies) if is_grouped else model
        put_in_ring_, place_ = compiled_for_all(put_in_ring), compiled_for_all(place)

        def logits_at(states: Any, places: Any) -> Any:
            """Give (batch, count, known) logits after the tokens at `places`, (batch, count)."""
            wanted = ops.take_along_axis(states, ops.expand_dims(places, 2), axis=1)
            flat = ops.reshape(wanted, (-1, states.shape[-1]))  # (batch * count, embedding_dim)
            with copies.read_by(flat.shape[0] if states.shape[1] == 1 else None):
                logits = model.next_logits(flat)[:, :known]
            return ops.reshape(logits, (*ops.shape(places), known))

        def logits_of_last(states: Any, counts: Any) -> Any:
            """Give (batch, known) logits after the first `counts`, (batch,), tokens of each row."""
            return logits_at(states, ops.expand_dims(counts - 1, 1))[:, 0, :]

        def keep(past: Sequence[KeyValues], lengths: Any) -> list[KeyValues]:
            return keep_windows(past, lengths, model.config)

        logits_at_ = compiled(logits_at, model)
        logits_of_last_ = compiled(logits_of_last, model)
        has_windows = any(window is not None for window in model.config.attention_windows)
        self.keep_windows: Callable[..., Any] = lambda past, lengths: past
        if has_windows:
            self.keep_windows = compiled(keep, model)

        def first_whole(token_ids: Any, lengths: Any) -> tuple[Any, list[KeyValues]]:
            states, cache = blocks.prefill(token_ids, lengths)
            return logits_of_last_(states, lengths), cache

        def first(token_ids: Any, lengths: Any) -> tuple[Any, list[KeyValues]]:
            logits, past = first_whole(token_ids, lengths)
            return logits, self.keep_windows(past, lengths)

        def following(
            tokens: Any,
            lengths: Any,
            slots: Any,
            past: Sequence[KeyValues],
            recent: Sequence[KeyValues],
        ) -> tuple[Any, list[KeyValues]]:
            token_ids = ops.expand_dims(tokens, 1)
            states, recent = blocks.step(token_ids, lengths, slots, past, recent)
            return logits_of_last_(states, ops.ones_like(lengths)), recent

        def read(
            token_ids: Any,
            places: Any,
            lengths: Any,
            slots: Any,
            past: Sequence[KeyValues],
            recent: Sequence[KeyValues],
        ) -> tuple[Any, list[KeyValues]]:
            states, recent = blocks.step(token_ids, lengths, slots, past, recent)
            return logits_at_(states, places), recent

        def folded(
            past: Sequence[KeyValues], recent: Sequence[KeyValues], lengths: Any, slots: Any
        ) -> list[KeyValues]:
            return fold(past, recent, lengths, slots, put_in_ring_)

        def extend(
            token_ids: Any, counts: Any, lengths: Any, past: Sequence[KeyValues]
        ) -> tuple[Any, list[KeyValues]]:
            recent = empty_recent(past, token_ids.shape[1])
            states, recent = blocks.step(token_ids, lengths, ops.zeros_like(lengths), past, recent)
            return logits_of_last_(states, counts), folded(past, recent, lengths, counts)

        def place_layers(
            mine: Sequence[KeyValues], others: Sequence[KeyValues], at: Any
        ) -> list[KeyValues]:
            return [place_(a, b, at) for a, b in zip(mine, others, strict=True)]

        self.first = self.first_whole = assembled(first, model)
        if has_windows:
            self.first_whole = assembled(first_whole, model)
        self.next = assembled(following, model)
        self.read = assembled(read, model)
        self.extend = assembled(extend, model)
        self.fold = assembled(folded, model)
        self.place = place_
        self.place_layers = assembled(place_layers, model)
        self.probabilities = compiled_for_all(probabilities)
        self.accept = compiled_for_all(accept)
        self.choose = compiled_for_all(choose)
        self.choose_controlled = compiled_for_all(choose_controlled)
        self.logprobs = compiled_for_all(_logprobs)
        self.score = compiled(model.score_positions, model)
        is_one_program = len(model.blocks) <= _MOST_BLOCKS_IN_A_LOOP
        self._several = looped(self._none_is_last, self._one_more, is_one_program)
        self._config = model.config

    def grow(self, past: Sequence[KeyValues], length: Any) -> list[KeyValues]:
        """Make room in `past` for rows of `length` tokens; see `grow_past`."""
        return grow_past(past, length, self._config)

    def several(self, going_on: GoingOn, tokens: Any, recent: Sequence[KeyValues]) -> Several:
        """Read a token a row and choose the next one, again and again.

        Args:
            going_on: what stays the same.
            tokens: (batch,) int32, those that are read first.
            recent: for each layer a pair of (batch, heads, slots, head_dim).

        Returns:
            What the last step left, after a row chose one of the tokens it is to end at, or after
            `going_on.most` steps.
        """
        count, found = self.several_in_graph(going_on, tokens, recent)
        return found._replace(tokens=np.asarray(ops.convert_to_numpy(found.tokens))[: int(count)])

    def several_in_graph(
        self, going_on: GoingOn, tokens: Any, recent: Sequence[KeyValues]
    ) -> tuple[Any, Several]:
        """Do what `several` does, also in a graph: give how many steps it took, and what they left.

        The tokens are those of `RECENT_SLOTS` steps, of which so many count.
        """
        batch = ops.shape(tokens)[0]
        state = (
            ops.convert_to_tensor(0, "int32"),
            ops.zeros((RECENT_SLOTS, batch), "int32"),
            tokens,
            ops.zeros((batch, self.known), "float32"),
            list(recent),
        )
        count, chosen, _, logits, recent = self._several((going_on,), state)
        return count, Several(chosen, logits, recent)

    def _none_is_last(
        self, going_on: GoingOn, count: Any, chosen: Any, tokens: Any, *state: Any
    ) -> Any:
        is_last = ops.logical_and(ops.take(going_on.last, tokens, axis=0), going_on.live)
        return ops.logical_and(
            count < going_on.most,
            ops.logical_or(ops.equal(count, 0), ops.logical_not(ops.any(is_last))),
        )

    def _one_more(
        self, going_on: GoingOn, count: Any, chosen: Any, tokens: Any, logits: Any, recent: Any
    ) -> tuple[Any, ...]:
        slots = going_on.slots + count
        logits, recent = self.next(tokens, going_on.lengths, slots, going_on.past, recent)
        tokens = self.choose(logits, going_on.sampling, going_on.steps + count)
        place = ops.reshape(count, (1, 1))
        chosen = ops.scatter_update(chosen, place, ops.expand_dims(tokens, 0))
        return count + 1, chosen, tokens, logits, list(recent)

    def fold_growing(
        self,
        past: list[KeyValues],
        recent: Sequence[KeyValues],
        lengths: np.ndarray,
        slots: np.ndarray,
    ) -> list[KeyValues]:
        """Move `recent` behind `past`, which first grows to a larger bucket where it has no room.

        Args:
            past: for each layer a pair of (batch, heads, length, head_dim).
            recent: for each layer a pair of (batch, heads, slots, head_dim).
            lengths: (batch,) int32, how many tokens of each row are in `past`.
            slots: (batch,) int32, how many are in `recent`.

        Returns:
            The new past.
        """
        context = self._config.context_length
        needed = length_bucket(min(int((lengths + slots).max()), context), context)
        if needed > longest(past):
            past = self.grow(past, needed)
        folded: list[KeyValues] = self.fold(
            past, recent, tensor(lengths, "int32"), tensor(slots, "int32")
        )
        return folded


def _logprobs(logits: Any, tokens: Any) -> tuple[Any, Any, Any]:
    values = ops.log_softmax(logits, axis=-1)
    chosen = ops.take_along_axis(values, ops.expand_dims(tokens, 1), axis=1)[:, 0]
    top, top_ids = ops.top_k(values, min(TOP_LOGPROBS, logits.shape[-1]))
    return chosen, ops.cast(top_ids, "int32"), top


def decode_steps(model: Decoder) -> DecodeSteps:
    """Give the model's compiled functions, made on first use and kept with it.

    They are to be asked for again where weights may have been changed.
    """
    steps: DecodeSteps = kept_with(model, "_decode_steps", lambda: DecodeSteps(model))
    steps.copies.renew()
    return steps
