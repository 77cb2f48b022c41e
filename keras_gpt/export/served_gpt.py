"""A GPT as a SavedModel's functions: one a signature."""

import inspect
from typing import Any

import tensorflow as tf

from keras_gpt.export.graph_decode import (
    Continued,
    bucket_in_graph,
    decode_in_graph,
    in_batch_bucket,
)
from keras_gpt.export.graph_inputs import Rows, spec, to_width
from keras_gpt.export.graph_onednn import either, onednn_for
from keras_gpt.export.graph_settings import (
    Settings,
    default_settings,
    one_a_row,
    read_settings,
    require,
)
from keras_gpt.generation.embed import POOLINGS, pooled_states
from keras_gpt.generation.options import read_stop_token_ids, usual_new_tokens
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.steps import decode_steps


class ServedGPT(tf.Module):
    """What is saved: the weights, the tokenizer's tables and one function a signature.

    Args:
        model: whose weights and tokenizer go along.
        max_batch: the most rows of a request; None is any.
        max_new_tokens: the most new tokens of an answer, and what a request that does not say gets
            where the context has room for it; None is whatever fits the context, and 64.
    """

    def __init__(
        self, model: Decoder, max_batch: int | None = None, max_new_tokens: int | None = None
    ) -> None:
        super().__init__()
        self.weights = [variable.value for variable in model.variables]
        self.tokenizer = None if model.tokenizer is None else model.tokenizer.graph()
        self._context = model.config.context_length
        self._vocab_size = model.config.vocab_size
        end = None if model.tokenizer is None else model.tokenizer.end_of_text_id
        self._end_of_text = end
        self._stops = read_stop_token_ids(model, None)
        self._rows = Rows(self.tokenizer, self._vocab_size, max_batch)
        self.onednn = onednn_for(model)
        run_steps = either(lambda: decode_steps(model), self.onednn)
        known = decode_steps(model).known
        prompt = self._rows.spec("prompt")
        usual = usual_new_tokens(self._context, 64 if max_new_tokens is None else max_new_tokens)
        settings = default_settings(usual, self.tokenizer is not None)
        token_bytes = None if self.tokenizer is None else self.tokenizer.token_bytes

        def generate(prompt: Any, *values: Any) -> dict[str, Any]:
            given = dict(zip(settings, values, strict=True))
            token_ids, lengths = self._rows.tokens(prompt, "prompt", least=1)
            rows = tf.shape(lengths)[0]
            asked = read_settings(
                given, rows, lengths, self._context, max_new_tokens, known, self._stops
            )
            # A bad request is refused before the work, which may begin with compiling for seconds.
            with tf.control_dependencies(tf.nest.flatten(asked)):
                token_ids, lengths = tf.identity(token_ids), tf.identity(lengths)
            new = run_steps(
                lambda steps: decode_in_graph(
                    steps, token_ids, lengths, asked, token_bytes, self._context
                )
            )
            return self._answer(token_ids, lengths, new, asked, given.get("echo"))

        # What TensorFlow reads the names of the signature's inputs and their defaults from.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        generate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter("prompt", kind),
                *[inspect.Parameter(name, kind, default=each) for name, each in settings.items()],
            ]
        )
        self.generate = tf.function(
            generate,
            input_signature=[
                prompt,
                *[
                    spec(each.dtype, name, *[None] * (each.shape.rank - 1))
                    for name, each in settings.items()
                ],
            ],
            autograph=False,
        )

        self.generate_with_defaults = tf.function(
            lambda prompt: self.generate(prompt, **settings),
            input_signature=[prompt],
            autograph=False,
        )

        nothing, mean, yes = self._rows.nothing(), tf.constant(["mean"]), tf.constant([True])

        def score(text: Any, given: Any = nothing) -> dict[str, Any]:
            return self._score(
                text, given, lambda *args: run_steps(lambda steps: steps.score(*args))
            )

        self.score = tf.function(
            score,
            input_signature=[self._rows.spec("text"), self._rows.spec("given")],
            autograph=False,
        )
        run_pooled = either(lambda: pooled_states(model), self.onednn)

        def embed(text: Any, pooling: Any = mean, normalize: Any = yes) -> dict[str, Any]:
            vectors = self._embed(
                text, pooling, normalize, lambda *args: run_pooled(lambda pooled: pooled(*args))
            )
            return {"embedding": vectors}

        self.embed = tf.function(
            embed,
            input_signature=[
                self._rows.spec("text"),
                spec(tf.string, "pooling"),
                spec(tf.bool, "normalize"),
            ],
            autograph=False,
        )

        def token_logits(token_ids: Any) -> dict[str, Any]:
            time = tf.shape(token_ids)[1]
            known = (token_ids >= 0) & (token_ids < self._vocab_size)
            with tf.control_dependencies(
                [
                    *self._rows.few_enough(token_ids, "token_ids"),
                    require(known, f"token_ids must be from 0 to {self._vocab_size - 1}"),
                    require(
                        time <= self._context, f"token_ids must be at most {self._context} long"
                    ),
                ]
            ):
                token_ids = tf.identity(token_ids)
            return {"logits": tf.cast(model(token_ids, training=False), tf.float32)}

        self.token_logits = tf.function(
            token_logits, input_signature=[spec(tf.int32, "token_ids", None)], autograph=False
        )

    def _answer(
        self, token_ids: Any, lengths: Any, new: Continued, asked: Settings, echo: Any
    ) -> dict[str, Any]:
        prompts = tf.RaggedTensor.from_tensor(token_ids, lengths)
        continuations = tf.RaggedTensor.from_tensor(new.new_tokens, new.new_lengths)
        ragged = tf.concat([prompts, continuations], axis=1)
        steps = tf.shape(new.new_tokens)[1]
        # What a row has no token for, or did not ask for, is 0, and -1 where it is an id.
        inside = (tf.range(steps) < new.new_lengths[:, None]) & (asked.logprobs >= 0)[:, None]
        places = tf.range(tf.shape(new.top_ids)[2])
        inside_top = inside[:, :, None] & (places < asked.logprobs[:, None, None])
        inside = inside[:, : tf.shape(new.logprobs)[1]]
        answer = {
            "token_ids": ragged.to_tensor(default_value=-1),
            "num_tokens": tf.cast(ragged.row_lengths(), tf.int32),
            "finish_reason": tf.where(new.has_stopped, "stop", "length"),
            "log_probabilities": tf.where(inside, new.logprobs, 0.0),
            "top_token_ids": tf.where(inside_top, new.top_ids, -1),
            "top_log_probabilities": tf.where(inside_top, new.top_logprobs, 0.0),
        }
        if self.tokenizer is not None:
            completion = self.tokenizer.detokenize(continuations, skip_special=True)
            has_stop = tf.reduce_any(asked.stop != "", axis=1)
            completion = tf.where(has_stop, self.tokenizer.valid_text(new.text), completion)
            before = self.tokenizer.detokenize(prompts, skip_special=True)
            echoed = one_a_row(echo, "echo", tf.shape(lengths)[0])
            answer["completion"] = completion
            answer["text"] = tf.strings.join([tf.where(echoed, before, ""), completion])
        return answer

    def _score(self, text: Any, given: Any, position_losses: Any) -> dict[str, Any]:
        """Give log P(text | given); an empty `given` stands for the end of text."""
        targets, target_lengths = self._rows.tokens(text, "text", least=1)
        sources, source_lengths = self._rows.tokens(given, "given", least=0)
        rows = tf.shape(target_lengths)[0]
        source_lengths = one_a_row(source_lengths, "given", rows)
        sources = one_a_row(sources, "given", rows)
        ragged_sources = tf.RaggedTensor.from_tensor(sources, source_lengths)
        starts = source_lengths
        if self._end_of_text is not None:
            empty = tf.cast(source_lengths == 0, tf.int32)
            ends = tf.fill([tf.shape(empty)[0], 1], self._end_of_text)
            ragged_sources = tf.concat(
                [tf.RaggedTensor.from_tensor(ends, empty), ragged_sources], axis=1
            )
            starts = source_lengths + empty
        whole = tf.concat([ragged_sources, tf.RaggedTensor.from_tensor(targets, target_lengths)], 1)
        lengths = tf.cast(whole.row_lengths(), tf.int32)
        fits = require(
            lengths - 1 <= self._context,
            f"text and given together must fit {self._context + 1} tokens",
        )
        with tf.control_dependencies([fits]):
            longest = tf.maximum(tf.reduce_max(lengths) - 1, 1)
        time = bucket_in_graph(longest, self._context)
        # losses[t] is of token t + 1
        losses = in_batch_bucket(position_losses, to_width(whole, time + 1), source_lengths)
        index = tf.range(time)[None, :]
        counted = (index >= tf.maximum(starts, 1)[:, None] - 1) & (index < lengths[:, None] - 1)
        return {
            "log_probability": -tf.reduce_sum(tf.where(counted, losses, 0.0), axis=1),
            "num_tokens": tf.reduce_sum(tf.cast(counted, tf.int32), axis=1),
        }

    def _embed(self, text: Any, pooling: Any, normalize: Any, pooled: Any) -> Any:
        """Give the vectors of texts, (batch, embedding_dim), as `GPT.embed` does."""
        token_ids, lengths = self._rows.tokens(text, "text", least=1)
        rows = tf.shape(lengths)[0]
        pooling = one_a_row(pooling, "pooling", rows)
        normalize = one_a_row(normalize, "normalize", rows)
        known = tf.reduce_any(pooling[:, None] == tf.constant(POOLINGS), axis=1)
        checks = [
            require(
                lengths <= self._context, f"text must fit the context of {self._context} tokens"
            ),
            require(known, f"pooling must be one of {', '.join(POOLINGS)}"),
        ]
        with tf.control_dependencies(checks):
            time = bucket_in_graph(tf.reduce_max(lengths), self._context)
        ragged = tf.RaggedTensor.from_tensor(token_ids, lengths)
        vectors = in_batch_bucket(pooled, to_width(ragged, time), lengths)
        chosen = tf.zeros_like(vectors[0])
        for name, each in zip(POOLINGS, vectors, strict=True):
            chosen = tf.where((pooling == name)[:, None], each, chosen)
        norms = tf.norm(chosen, axis=1, keepdims=True)
        return chosen / tf.where(normalize[:, None] & (norms > 0.0), norms, 1.0)
