"""SavedModels that take strings and give strings, from core TensorFlow operations alone."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_gpt.export.batching import batch_sizes, write_batching_params
from keras_gpt.export.served_classifier import Classifier, ServedClassifier
from keras_gpt.export.served_gpt import ServedGPT
from keras_gpt.export.warmup_records import WARMUP_FILE, PredictRequest, write_warmup_records
from keras_gpt.export.warmup_requests import classifier_requests, gpt_requests
from keras_gpt.files import require_free, whole_folder
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.sampling_options import check_int

_CLASSIFY_METHOD = "tensorflow/serving/classify"


def export_gpt(
    model: Decoder,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    max_batch: int | None = None,
    max_new_tokens: int | None = None,
) -> None:
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
    log_probability and num_tokens. embed takes text, pooling and normalize, as `GPT.embed` does,
    and gives embedding. token_logits takes token_ids (batch, time) and gives logits. A
    model without a tokenizer takes ids, padded with -1, in place of strings, gives no text, and has
    neither stop nor echo. A stop string with U+FFFD does not find bytes that are no UTF-8.

    Args:
        model: whose weights and tokenizer go along.
        path: the folder of one version, such as "saved_models/name/1".
        overwrite: whether a non-empty folder may be replaced.
        max_batch: the most rows of a request. Requests that warm a server up for every shape, and
            how it may put requests together, go along; None is any number, and nothing goes along.
        max_new_tokens: the most new tokens of an answer, and what a request that does not say gets,
            but no more than half the context; None is whatever fits the context, and 64.

    Raises:
        FileExistsError: the folder holds something and `overwrite` is False.
        ValueError: an argument is out of range.
    """
    require_free(path, overwrite)
    context = model.config.context_length
    if max_new_tokens is not None:
        check_int("max_new_tokens", max_new_tokens, 1, context)
    sizes = batch_sizes(max_batch)
    requests = gpt_requests(model.tokenizer, context, sizes, max_new_tokens)
    # Rows of ids have widths, and a server would fill the shorter ones up with their first id.
    can_batch = model.tokenizer is not None
    module = ServedGPT(model, max_batch, max_new_tokens)
    signatures = {
        "serving_default": module.generate,
        "generate": module.generate,
        "generate_with_defaults": module.generate_with_defaults,
        "score": module.score,
        "embed": module.embed,
        "token_logits": module.token_logits,
    }
    _save(module, signatures, path, overwrite, requests, sizes if can_batch else [])


def export_classifier(
    model: Classifier,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    max_batch: int | None = None,
) -> None:
    """Write a classifier as a SavedModel for TensorFlow Serving.

    `classify_text`, the default, takes the vector text and gives label, its probability, and
    probabilities (batch, classes). `classify` is for the Classify API: it takes tf.Examples with
    the feature "text", and gives classes (batch, classes) and scores (batch, classes).

    Args:
        model: a `GPTClassifier` with a tokenizer.
        path: the folder of one version, such as "saved_models/name/1".
        overwrite: whether a non-empty folder may be replaced.
        max_batch: the most rows of a request; as for `export_gpt`.

    Raises:
        FileExistsError: the folder holds something and `overwrite` is False.
        ValueError: an argument is out of range, or there is no tokenizer.
    """
    require_free(path, overwrite)
    sizes = batch_sizes(max_batch)
    module = ServedClassifier(model, max_batch)
    signatures = {
        "serving_default": module.classify_text,
        "classify_text": module.classify_text,
        "classify": module.classify,
    }
    requests = classifier_requests(model.gpt.tokenizer, model.gpt.config.context_length, sizes)
    _save(module, signatures, path, overwrite, requests, sizes, {"classify": _CLASSIFY_METHOD})


def _save(
    module: tf.Module,
    signatures: dict[str, Any],
    path: str | os.PathLike[str],
    overwrite: bool,
    requests: Iterable[PredictRequest],
    sizes: list[int],
    methods: Mapping[str, str] = {},
) -> None:
    """Write the folder of a version.

    Args:
        module: what is saved.
        signatures: its functions, by name.
        path: the folder.
        overwrite: whether a non-empty folder may be replaced.
        requests: what warms a server up.
        sizes: how many rows a server may put together, [] for none.
        methods: the method names of signatures that are not for the Predict API.
    """
    name = Path(os.path.abspath(path)).parent.name
    with whole_folder(path, overwrite) as scratch:
        # Nobody trains what is served.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, str(scratch), signatures=signatures, options=options)
        if methods:
            updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(scratch))
            for signature, method in methods.items():
                updater.replace_method_name(signature, method, tags="serve")
            updater.save()
        write_warmup_records(scratch / WARMUP_FILE, name, requests)
        if sizes:
            write_batching_params(scratch, sizes)
