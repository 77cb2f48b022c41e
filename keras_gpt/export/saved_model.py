"""SavedModels that take strings and give strings, from core TensorFlow operations alone."""

import inspect
import os
from typing import Any, Protocol

import tensorflow as tf

from keras_gpt.export.graph_decode import (
    Continued,
    bucket_in_graph,
    decode_in_graph,
    in_batch_bucket,
)
from keras_gpt.export.graph_settings import (
    Settings,
    default_settings,
    one_a_row,
    read_settings,
    require,
)
from keras_gpt.files import whole_folder
from keras_gpt.generation.options import read_stop_token_ids, usual_new_tokens
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.steps import decode_steps


class Classifier(Protocol):
    """What this file knows of a classifier."""

    gpt: Any
    label_names: list[str]
    variables: list[Any]

    def class_logits(self, token_ids: Any, lengths: Any) -> Any:
        """Give (batch, num_classes) logits; see `GPTClassifier.class_logits`."""


def export_gpt(model: Decoder, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a GPT as a SavedModel for TensorFlow Serving.

    `generate`, the default, takes the vector prompt and the settings of `GPT.generate`, named as
    there, one entry a row (or one for all): max_new_tokens, temperature, top_k, top_p, min_p,
    typical_p, the three penalties, no_repeat_ngram_size, min_new_tokens, seed, echo, logprobs (-1
    asks for none), and stop (batch, n), filled up with "". All but the prompt have defaults that
    TensorFlow Serving fills in. It gives text, completion (the new text alone), finish_reason
    ("stop" or "length"), token_ids (batch, longest: prompt and all new tokens) padded with -1,
    num_tokens (batch,), log_probabilities (batch, longest new), or (batch, 0) where no row asks,
    top_token_ids and top_log_probabilities (batch, longest new, most logprobs). What a row did not
    ask for is 0, and -1 where it is an id. generate_with_defaults takes the prompt alone, for
    servers that ask for every input of a signature. score takes text and given, and gives
    log_probability and num_tokens. token_logits takes token_ids (batch, time) and gives logits. A
    model without a tokenizer takes ids, padded with -1, in place of strings, gives no text, and has
    neither stop nor echo. A stop string with U+FFFD does not find bytes that are no UTF-8.

    Args:
        model: whose weights and tokenizer go along.
        path: the folder of one version, such as "saved_models/name/1".
        overwrite: whether a non-empty folder may be replaced.
    """
    module = _ServedGPT(model)
    signatures = {
        "serving_default": module.generate,
        "generate": module.generate,
        "generate_with_defaults": module.generate_with_defaults,
        "score": module.score,
        "token_logits": module.token_logits,
    }
    _save(module, signatures, path, overwrite)


def export_classifier(
    model: Classifier, path: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Write a classifier as a SavedModel: text in; label, its probability, and all probabilities out.

    Args:
        model: a `GPTClassifier` with a tokenizer.
        path: the folder of one version, such as "saved_models/name/1".
        overwrite: whether a non-empty folder may be replaced.
    """
    module = _ServedClassifier(model)
    signatures = {"serving_default": module.classify, "classify_text": module.classify}
    _save(module, signatures, path, overwrite)


def _save(
    module: tf.Module,
    signatures: dict[str, Any],
    path: str | os.PathLike[str],
    overwrite: bool,
) -> None:
    with whole_folder(path, overwrite) as scratch:
        tf.saved_model.save(module, str(scratch), signatures=signatures)


def _spec(dtype: Any, name: str, *shape: int | None) -> tf.TensorSpec:
    return tf.TensorSpec([None, *shape], dtype, name=name)


class _ServedGPT(tf.Module):
    """What is saved: the weights, the tokenizer's tables and one function a signature."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.weights = [variable.value for variable in model.variables]
        self.tokenizer = None if model.tokenizer is None else model.tokenizer.graph()
        self._context = model.config.context_length
        self._vocab_size = model.config.vocab_size
        end = None if model.tokenizer is None else model.tokenizer.end_of_text_id
        self._end_of_text = end
        self._stops = read_stop_token_ids(model, None)
        steps = decode_steps(model)
        prompt = self._prompt_spec("prompt")
        settings = default_settings(usual_new_tokens(self._context), self.tokenizer is not None)
        token_bytes = None if self.tokenizer is None else self.tokenizer.token_bytes

        def generate(prompt: Any, *values: Any) -> dict[str, Any]:
            given = dict(zip(settings, values, strict=True))
            token_ids, lengths = self._tokens(prompt, "prompt", least=1)
            rows = tf.shape(lengths)[0]
            asked = read_settings(given, rows, lengths, self._context, steps.known, self._stops)
            # A bad request is refused before the work, which may begin with compiling for seconds.
            with tf.control_dependencies(tf.nest.flatten(asked)):
                token_ids, lengths = tf.identity(token_ids), tf.identity(lengths)
            new = decode_in_graph(
                steps, token_ids, lengths, asked, self._stops, token_bytes, self._context
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
                    _spec(each.dtype, name, *[None] * (each.shape.rank - 1))
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
        nothing = tf.constant([""]) if self.tokenizer else tf.constant([[-1]])

        def score(text: Any, given: Any = nothing) -> dict[str, Any]:
            return self._score(text, given, steps.score)

        self.score = tf.function(
            score,
            input_signature=[self._prompt_spec("text"), self._prompt_spec("given")],
            autograph=False,
        )

        def token_logits(token_ids: Any) -> dict[str, Any]:
            time = tf.shape(token_ids)[1]
            known = (token_ids >= 0) & (token_ids < self._vocab_size)
            with tf.control_dependencies(
                [
                    require(known, f"token_ids must be from 0 to {self._vocab_size - 1}"),
                    require(
                        time <= self._context, f"token_ids must be at most {self._context} long"
                    ),
                ]
            ):
                token_ids = tf.identity(token_ids)
            return {"logits": tf.cast(model(token_ids, training=False), tf.float32)}

        self.token_logits = tf.function(
            token_logits, input_signature=[_spec(tf.int32, "token_ids", None)], autograph=False
        )

    def _prompt_spec(self, name: str) -> tf.TensorSpec:
        if self.tokenizer is None:
            return _spec(tf.int32, name, None)
        return _spec(tf.string, name)

    def _tokens(self, prompt: Any, name: str, least: int) -> tuple[Any, Any]:
        """Give ids (batch, longest), padded with 0, and their lengths."""
        if self.tokenizer is None:
            lengths = tf.reduce_sum(tf.cast(prompt >= 0, tf.int32), axis=1)
            token_ids = tf.maximum(prompt, 0)
            ends = tf.cast(prompt < 0, tf.int32)
            checks = [
                require(prompt < self._vocab_size, f"{name} must be ids of the vocabulary"),
                require(ends[:, 1:] >= ends[:, :-1], f"{name} must be padded at the end only"),
            ]
        else:
            ragged = self.tokenizer.tokenize(prompt)
            lengths = tf.cast(ragged.row_lengths(), tf.int32)
            token_ids = ragged.to_tensor()
            checks = []
        checks.append(require(lengths >= least, f"{name} must not be empty"))
        with tf.control_dependencies(checks):
            return tf.identity(token_ids), tf.identity(lengths)

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
        targets, target_lengths = self._tokens(text, "text", least=1)
        sources, source_lengths = self._tokens(given, "given", least=0)
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
        losses = in_batch_bucket(position_losses, _to_width(whole, time + 1), source_lengths)
        index = tf.range(time)[None, :]
        counted = (index >= tf.maximum(starts, 1)[:, None] - 1) & (index < lengths[:, None] - 1)
        return {
            "log_probability": -tf.reduce_sum(tf.where(counted, losses, 0.0), axis=1),
            "num_tokens": tf.reduce_sum(tf.cast(counted, tf.int32), axis=1),
        }


class _ServedClassifier(tf.Module):
    def __init__(self, model: Classifier) -> None:
        super().__init__()
        if model.gpt.tokenizer is None:
            raise ValueError(
                "export takes a classifier whose GPT has a tokenizer, so that strings go in. "
                "Received: tokenizer=None"
            )
        self.weights = [variable.value for variable in model.variables]
        self.tokenizer = model.gpt.tokenizer.graph()
        labels = tf.constant(model.label_names)
        context = model.gpt.config.context_length
        logits_of = tf.function(model.class_logits, jit_compile=True, autograph=False)

        def classify(text: Any) -> dict[str, Any]:
            ragged = self.tokenizer.tokenize(text)
            # As in training: what is beyond the context is cut off.
            lengths = tf.minimum(tf.cast(ragged.row_lengths(), tf.int32), context)
            with tf.control_dependencies([require(lengths >= 1, "text must not be empty")]):
                time = bucket_in_graph(tf.reduce_max(lengths), context)
            logits = in_batch_bucket(logits_of, _to_width(ragged, time), lengths)
            probabilities = tf.nn.softmax(tf.cast(logits, tf.float32), axis=-1)
            best = tf.argmax(probabilities, axis=-1)
            return {
                "label": tf.gather(labels, best),
                "probability": tf.reduce_max(probabilities, axis=-1),
                "probabilities": probabilities,
            }

        self.classify = tf.function(
            classify, input_signature=[_spec(tf.string, "text")], autograph=False
        )


def _to_width(ragged: Any, width: Any) -> Any:
    """Pad (or cut) rows to a width that is known only in the graph."""
    shape = tf.stack([tf.constant(-1, tf.int64), tf.cast(width, tf.int64)])
    return tf.ensure_shape(ragged.to_tensor(shape=shape), [None, None])
