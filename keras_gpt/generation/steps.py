"""The compiled functions of decoding: read prompts, read more tokens, choose, fold."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_gpt.generation.cache import fold
from keras_gpt.generation.compiled import compiled, kept_with
from keras_gpt.generation.control import choose_controlled
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.sampling import choose
from keras_gpt.key_values import KeyValues

# As many as OpenAI's API gives.
TOP_LOGPROBS = 20


class DecodeSteps:
    """The compiled functions of one model, each compiled once for each shape.

    Python's `generate` and the exported SavedModel run the same functions. A
    vocabulary may be larger than the tokenizer's (padded to a round number): what stands for no
    text is not chosen.

    Attributes:
        first: reads prompts; gives the logits after each row's last token, and the past.
        choose: chooses one token a row from logits; apart from `next`, whose program is there once
            for each length.
        next: reads one token a row; gives the next one's logits, and `recent` anew.
        read: reads several tokens a row; gives the logits after each row's last, and `recent` anew.
        fold: moves `recent` behind `past`.
        choose_controlled: chooses from logits that are changed first.
        logprobs: gives log P of chosen tokens, and the most probable ones.
        score: gives -log P of each next token.
    """

    def __init__(self, model: Decoder) -> None:
        known = model.config.vocab_size if model.tokenizer is None else model.tokenizer.vocab_size
        self.known = known

        def logits_at(states: Any, places: Any) -> Any:
            places = ops.reshape(places, (-1, 1, 1))
            last = ops.take_along_axis(states, places, axis=1)  # (batch, 1, embedding_dim)
            return model.next_logits(last[:, 0, :])[:, :known]

        def first(token_ids: Any, lengths: Any) -> tuple[Any, list[KeyValues]]:
            states, cache = model.prefill(token_ids, lengths)
            return logits_at(states, lengths - 1), cache

        def following(
            tokens: Any,
            lengths: Any,
            slots: Any,
            past: Sequence[KeyValues],
            recent: Sequence[KeyValues],
        ) -> tuple[Any, list[KeyValues]]:
            states, recent = model.step(ops.expand_dims(tokens, 1), lengths, slots, past, recent)
            return model.next_logits(states[:, 0, :])[:, :known], recent

        def read(
            token_ids: Any,
            counts: Any,
            lengths: Any,
            slots: Any,
            past: Sequence[KeyValues],
            recent: Sequence[KeyValues],
        ) -> tuple[Any, list[KeyValues]]:
            states, recent = model.step(token_ids, lengths, slots, past, recent)
            return logits_at(states, counts - 1), recent

        def logprobs(logits: Any, tokens: Any) -> tuple[Any, Any, Any]:
            values = ops.log_softmax(logits, axis=-1)
            chosen = ops.take_along_axis(values, ops.expand_dims(tokens, 1), axis=1)[:, 0]
            top, top_ids = ops.top_k(values, min(TOP_LOGPROBS, known))
            return chosen, ops.cast(top_ids, "int32"), top

        self.first = compiled(first, model)
        self.next = compiled(following, model)
        self.read = compiled(read, model)
        self.fold = compiled(fold, model)
        self.choose = compiled(choose, model)
        self.choose_controlled = compiled(choose_controlled, model)
        self.logprobs = compiled(logprobs, model)
        self.score = compiled(model.score_positions, model)


def decode_steps(model: Decoder) -> DecodeSteps:
    """Give the model's compiled functions, made on first use and kept with it."""
    steps: DecodeSteps = kept_with(model, "_decode_steps", lambda: DecodeSteps(model))
    return steps
