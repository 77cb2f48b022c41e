"""Two ways of guessing the next tokens of a row: ask a small model, or look the last ones up."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from keras import ops

from keras_gpt.generation.acceptance import drafting_settings
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.reader import RowReader
from keras_gpt.generation.rows import Row, tensor
from keras_gpt.generation.sampling import Sampling


class Proposal(NamedTuple):
    """Guessed tokens, and what they were drawn from."""

    tokens: list[int]
    probabilities: Any  # (1, len(tokens), vocab_size) float32


class Proposer(Protocol):
    """Guesses the next few tokens of a row, always the same number."""

    def propose(self, tokens: Sequence[int], step: int) -> Proposal | None:
        """Guess the next tokens, or give None for no guess.

        Args:
            tokens: prompt and answer so far; the first call's are the prompt and one token, and
                later ones add to them at most one token more than was guessed.
            step: how many of them are the answer.
        """


class DraftModel:
    """Asks a smaller model, which keeps a cache of its own.

    Args:
        model: the smaller model.
        row: what it goes on with.
        sampling: the row's settings.
        count: how many tokens to guess at a time.

    Source: arXiv:2211.17192.
    """

    def __init__(self, model: Decoder, row: Row, sampling: Sampling, count: int) -> None:
        self._count = count
        self._sampling = drafting_settings(sampling)
        self._reader = RowReader(model, row, self._sampling)

    def propose(self, tokens: Sequence[int], step: int) -> Proposal:
        """Guess the next tokens, one after the other."""
        reader, count = self._reader, self._count
        # What it guessed and the large model refused is forgotten; the last token was never read.
        reader.forget_from(min(reader.count, len(tokens) - 1))
        reader.make_room(count + 1)
        # Where all its guesses were accepted, it has not read the last of them either.
        logits = [reader.read(tokens[reader.count :], width=2)]
        chosen = [reader.steps.choose(logits[0], self._sampling, tensor([step], "int32"))]
        for place in range(1, count):
            token, next_logits = reader.next(chosen[-1], step + place, self._sampling)
            logits.append(next_logits)
            chosen.append(token)
        every = Sampling(*[ops.repeat(each, count, axis=0) for each in self._sampling])
        drawn_from = reader.steps.probabilities(ops.concatenate(logits, axis=0), every)
        return Proposal(
            ops.convert_to_numpy(ops.concatenate(chosen, axis=0)).tolist(),
            ops.expand_dims(drawn_from, 0),
        )


class PromptLookup:
    """Finds where the last tokens stood before, and proposes what followed them there.

    The last such place counts. Where what followed reaches the end of the row, it is read on from
    its beginning: a row that repeats itself is taken to go on doing so.

    Args:
        ngram_size: how many last tokens must be the same.
        count: how many tokens to propose at a time.
        vocab_size: how many tokens the model chooses from.

    Source: "Prompt lookup decoding", a method without a paper, published by Apoorv Saxena (2023) as
        the repository prompt-lookup-decoding; transformers' `prompt_lookup_num_tokens`.
    """

    def __init__(self, ngram_size: int, count: int, vocab_size: int) -> None:
        self._size = ngram_size
        self._count = count
        self._vocab_size = vocab_size
        self._ends: dict[tuple[int, ...], int] = {}  # the place after an n-gram's last occurrence
        self._known = ngram_size  # the place after the first n-gram that is not in it

    def propose(self, tokens: Sequence[int], step: int) -> Proposal | None:
        """Guess the next tokens, or give None where the last ones were never seen together."""
        # The n-gram that ends the row is not put in: it would find itself.
        for end in range(self._known, len(tokens)):
            self._ends[tuple(tokens[end - self._size : end])] = end
        self._known = max(self._known, len(tokens))
        start = self._ends.get(tuple(tokens[-self._size :]))
        if start is None:
            return None
        period = len(tokens) - start
        guessed = [tokens[start + place % period] for place in range(self._count)]
        # Nothing was drawn: all of the probability is in the token that is proposed.
        certain = ops.one_hot(np.array([guessed]), self._vocab_size, dtype="float32")
        return Proposal(guessed, certain)


def make_proposer(
    row: Row,
    sampling: Sampling,
    draft: Decoder | None,
    lookup: int | None,
    count: int,
    vocab_size: int,
) -> Proposer:
    """Make the one that is asked for: a draft model, or a look-up of the last `lookup` tokens."""
    if draft is not None and lookup is None:
        return DraftModel(draft, row, sampling, count)
    if lookup is not None and draft is None:
        return PromptLookup(lookup, count, vocab_size)
    raise ValueError(
        "give one of draft and lookup. Received: "
        f"draft={'None' if draft is None else 'a model'}, lookup={lookup}"
    )
