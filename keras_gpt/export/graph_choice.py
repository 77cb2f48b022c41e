"""Choosing tokens in the graph, where a request pays for control and log-probabilities if it asks."""

from typing import Any

import tensorflow as tf

from keras_gpt.export.graph_settings import Settings, is_controlled
from keras_gpt.generation.control import Seen
from keras_gpt.generation.processors import count_tokens
from keras_gpt.generation.steps import DecodeSteps, Several


class Choice:
    """Chooses the tokens of a batch.

    Args:
        steps: the model's compiled functions.
        settings: what is asked of every row.
        context_length: the model's.

    Attributes:
        looks_at_each: bool scalar, whether each token is needed before the next is chosen.
        sampling_ahead: what several steps choose by; controlled tokens are chosen anew, and so greedily
            there, which is least work.
    """

    def __init__(self, steps: DecodeSteps, settings: Settings, context_length: int) -> None:
        self._steps = steps
        self._settings = settings
        self._context = context_length
        self._is_controlled = is_controlled(settings.control)
        self._asks_logprobs = tf.reduce_max(settings.logprobs) >= 0
        self.looks_at_each = self._is_controlled | self._asks_logprobs
        temperature = settings.sampling.temperature
        self.sampling_ahead = settings.sampling._replace(
            temperature=tf.where(self._is_controlled, 0.0, temperature)
        )

    def seen(self, token_ids: Any, lengths: Any) -> Seen:
        """Give what prompts, (batch, time) and (batch,), show; of no rows where nothing is controlled."""
        known = self._steps.known

        def prompts() -> Seen:
            more = self._context - tf.shape(token_ids)[1]
            history = tf.pad(token_ids, [[0, 0], [0, more]])
            history = tf.ensure_shape(history, [None, self._context])
            counts = tf.ensure_shape(count_tokens(history, lengths, known), [None, known])
            return Seen(counts, tf.zeros_like(counts), history, lengths)

        def nothing() -> Seen:
            counts = tf.zeros([0, known], tf.int32)
            history = tf.zeros([0, self._context], tf.int32)
            return Seen(counts, counts, history, tf.zeros([0], tf.int32))

        return tf.cond(self._is_controlled, prompts, nothing)

    def choose(self, logits: Any, step: Any, seen: Seen) -> tuple[Any, Seen]:
        """Choose one token a row, as `choose` or `choose_controlled`; give what is seen with it."""
        sampling = self._settings.sampling

        def with_control() -> tuple[Any, Seen]:
            chosen, after = self._steps.choose_controlled(
                logits,
                sampling,
                step,
                self._settings.control,
                seen,
                tf.fill([1, self._steps.known], True),
                tf.fill(tf.shape(step), -1),
            )
            return chosen, after

        def without() -> tuple[Any, Seen]:
            return self._steps.choose(logits, sampling, step), seen

        return tf.cond(self._is_controlled, with_control, without)

    def choose_last(self, several: Several, step: Any, seen: Seen) -> tuple[Any, Seen]:
        """Give the tokens that several steps chose, (steps, batch); where they are controlled, one anew.

        Args:
            several: from `DecodeSteps.several_in_graph`; of one step where tokens are controlled.
            step: how many tokens of each row were chosen before.
            seen: what rows show.
        """

        def with_control() -> tuple[Any, Seen]:
            tokens, after = self.choose(
                several.logits, tf.fill(tf.shape(several.tokens)[1:], step), seen
            )
            return tokens[None], after

        return tf.cond(self._is_controlled, with_control, lambda: (several.tokens, seen))

    def logprobs(self, logits: Any, tokens: Any) -> tuple[Any, Any, Any]:
        """Give what `DecodeSteps.logprobs` gives, as matrices; with no columns where no row asks."""

        def asked() -> tuple[Any, Any, Any]:
            chosen, top_ids, top = self._steps.logprobs(logits, tokens)
            return chosen[:, None], top_ids, top

        def not_asked() -> tuple[Any, Any, Any]:
            nothing = tf.zeros([tf.shape(tokens)[0], 0])
            return nothing, tf.zeros([tf.shape(tokens)[0], 0], tf.int32), nothing

        return tf.cond(self._asks_logprobs, asked, not_asked)
