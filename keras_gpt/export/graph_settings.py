"""The settings of a request to `generate` in the graph: their defaults, checks, and rows."""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_gpt.generation.control import Control
from keras_gpt.generation.sampling import Sampling
from keras_gpt.generation.steps import TOP_LOGPROBS


class Settings(NamedTuple):
    """What a request asks of each row."""

    limits: Any  # (batch,) int32, the most new tokens
    sampling: Sampling
    control: Control  # bias and stops are (1, vocab_size): the same for all rows
    logprobs: Any  # (batch,) int32, how many alternatives; -1 asks for nothing
    stop: Any  # (batch, n) string, "" where there is none


def default_settings(max_new_tokens: int, with_text: bool) -> dict[str, Any]:
    """Give what the signature's inputs are when a request leaves them out.

    A server batches along the first axis, so each is a vector of one entry, and `stop` a matrix.

    Args:
        max_new_tokens: the default of this input.
        with_text: whether answers are text, so that there are `stop` and `echo`.
    """
    numbers: dict[str, tuple[Any, Any]] = {
        "max_new_tokens": (max_new_tokens, tf.int32),
        "temperature": (1.0, tf.float32),
        "top_k": (0, tf.int32),
        "top_p": (1.0, tf.float32),
        "seed": (-1, tf.int32),
        "min_p": (0.0, tf.float32),
        "typical_p": (1.0, tf.float32),
        "repetition_penalty": (1.0, tf.float32),
        "presence_penalty": (0.0, tf.float32),
        "frequency_penalty": (0.0, tf.float32),
        "no_repeat_ngram_size": (0, tf.int32),
        "min_new_tokens": (0, tf.int32),
        "logprobs": (-1, tf.int32),
    }
    settings = {name: tf.constant([value], dtype) for name, (value, dtype) in numbers.items()}
    if with_text:
        settings["stop"] = tf.constant([[""]])
        settings["echo"] = tf.constant([True])
    return settings


def read_settings(
    given: dict[str, Any],
    rows: Any,
    lengths: Any,
    context: int,
    most_new: int | None,
    known: int,
    stops: list[int],
) -> Settings:
    """Check a request's settings and spread them over its rows.

    Args:
        given: the inputs, named as in `default_settings`.
        rows: scalar int32, how many prompts there are.
        lengths: (batch,) int32 lengths of the prompts.
        context: the model's context length.
        most_new: the most new tokens that a row may ask for; None is any.
        known: how many tokens can be chosen.
        stops: ids that end a row.
    """
    each = {
        name: one_a_row(values, name, rows)
        for name, values in given.items()
        if name not in ("stop", "echo")
    }
    finite = tf.math.is_finite
    limits, temperature = each["max_new_tokens"], each["temperature"]
    top_p, min_p, typical_p = each["top_p"], each["min_p"], each["typical_p"]
    repetition, logprobs = each["repetition_penalty"], each["logprobs"]
    checks = [
        require(limits >= 1, "max_new_tokens must be at least 1"),
        require(
            lengths + limits <= context,
            f"prompt and max_new_tokens together must fit the context of {context} tokens",
        ),
        require(temperature >= 0.0, "temperature must be 0 or more"),
        require(each["top_k"] >= 0, "top_k must be 0 (all) or more"),
        require((top_p > 0.0) & (top_p <= 1.0), "top_p must be above 0, at most 1"),
        require((min_p >= 0.0) & (min_p <= 1.0), "min_p must be from 0 to 1"),
        require((typical_p > 0.0) & (typical_p <= 1.0), "typical_p must be above 0, at most 1"),
        require(
            (repetition > 0.0) & finite(repetition), "repetition_penalty must be a positive number"
        ),
        require(finite(each["presence_penalty"]), "presence_penalty must be a finite number"),
        require(finite(each["frequency_penalty"]), "frequency_penalty must be a finite number"),
        require(each["no_repeat_ngram_size"] >= 0, "no_repeat_ngram_size must be 0 (none) or more"),
        require(each["min_new_tokens"] >= 0, "min_new_tokens must be 0 or more"),
        require(
            (logprobs >= -1) & (logprobs <= TOP_LOGPROBS),
            f"logprobs must be -1 (none) or from 0 to {TOP_LOGPROBS}",
        ),
    ]
    if most_new is not None:
        checks.append(require(limits <= most_new, f"max_new_tokens must be at most {most_new}"))
    with tf.control_dependencies(checks):
        each = {name: tf.identity(values) for name, values in each.items()}
    # The default draws a new seed for each row. tf.random.uniform would put TensorFlow's global
    # seed into the file, and then every start of a server would draw the same.
    drawn = tf.raw_ops.RandomUniformInt(shape=[rows], minval=0, maxval=2**31 - 1, seed=0, seed2=0)
    sampling = Sampling(
        temperature=each["temperature"],
        top_k=tf.minimum(each["top_k"], known),
        top_p=each["top_p"],
        min_p=each["min_p"],
        typical_p=each["typical_p"],
        seed=tf.where(each["seed"] < 0, drawn, each["seed"]),
        sequence=tf.zeros([rows], tf.int32),
    )
    control = Control(
        bias=tf.fill([1, known], 0.0),
        repetition=each["repetition_penalty"],
        presence=each["presence_penalty"],
        frequency=each["frequency_penalty"],
        ngram_size=each["no_repeat_ngram_size"],
        min_new_tokens=each["min_new_tokens"],
        # Filled and compared in the graph: no constant of the file is as large as the vocabulary.
        stops=tf.reduce_any(tf.range(known)[None, :, None] == tf.constant(stops, tf.int32), axis=2),
    )
    stop = one_a_row(given.get("stop", tf.constant([[""]])), "stop", rows)
    return Settings(each["max_new_tokens"], sampling, control, each["logprobs"], stop)


def repeat_settings(settings: Settings, times: Any) -> Settings:
    """Give settings with the first row's behind the others', so many times more."""

    def repeated(tensors: Any) -> Any:
        return tf.nest.map_structure(lambda tensor: repeat_first(tensor, times), tensors)

    shared = {"bias": settings.control.bias, "stops": settings.control.stops}
    more: Settings = repeated(settings)
    return more._replace(control=more.control._replace(**shared))


def is_controlled(control: Control) -> Any:
    """Say whether some row changes the logits besides temperature and cut-offs, scalar bool."""
    return tf.reduce_any(
        (control.repetition != 1.0)
        | (control.presence != 0.0)
        | (control.frequency != 0.0)
        | (control.ngram_size > 0)
        | (control.min_new_tokens > 0)
    )


def one_a_row(values: Any, name: str, rows: Any) -> Any:
    """Spread one value over all rows; otherwise there must already be one a row."""
    count = tf.shape(values)[0]
    right = require((count == 1) | (count == rows), f"{name} must have one value, or one a row")
    with tf.control_dependencies([right]):
        return tf.broadcast_to(values, tf.concat([[rows], tf.shape(values)[1:]], axis=0))


def repeat_first(tensor: Any, times: Any) -> Any:
    """Put the first row behind the others, `times` times more."""
    return tf.concat([tensor, tf.repeat(tensor[:1], times, axis=0)], axis=0)


def require(condition: Any, message: str) -> Any:
    """Make the graph raise unless all of `condition` holds."""
    return tf.debugging.Assert(tf.reduce_all(condition), [message])
