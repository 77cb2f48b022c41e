"""The compiled functions of decoding: read prompts and choose, read one token and choose, fold."""

from collections.abc import Sequence
from typing import Any

from keras_gpt.generation.cache import fold
from keras_gpt.generation.compiled import compiled, kept_with
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.sampling import Sampling, choose


class DecodeSteps:
    """`first` and `next` of one model, compiled once for each shape.

    Python's `generate` and the exported SavedModel run these same two functions. A vocabulary may
    be larger than the tokenizer's (padded to a round number): what stands for no text is not chosen.
    """

    def __init__(self, model: Decoder) -> None:
        known = model.config.vocab_size if model.tokenizer is None else model.tokenizer.vocab_size

        def first(token_ids: Any, lengths: Any, sampling: Sampling) -> tuple[Any, list[Any]]:
            logits, cache = model.prefill(token_ids, lengths)
            return choose(logits[:, :known], sampling, 0), cache

        def following(
            tokens: Any,
            step: Any,
            sampling: Sampling,
            lengths: Any,
            slot: Any,
            past: Sequence[Any],
            recent: Sequence[Any],
        ) -> tuple[Any, list[Any]]:
            logits, recent = model.step(tokens, lengths, slot, past, recent)
            return choose(logits[:, :known], sampling, step), recent

        self.first = compiled(first, model)
        self.next = compiled(following, model)
        self.fold = compiled(fold, model)
        self.score = compiled(model.score_positions, model)


def decode_steps(model: Decoder) -> DecodeSteps:
    """Give the model's compiled functions, made on first use and kept with it."""
    steps: DecodeSteps = kept_with(model, "_decode_steps", lambda: DecodeSteps(model))
    return steps
