"""A classifier as a SavedModel: text in; label and probabilities out, as `predict` gives them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPT, GPTClassifier
from keras_gpt.export.warmup_records import WARMUP_FILE

TEXTS = ["The quick brown fox", "dog", "Why not? " * 30, "日本語も。", "lazy"]


@pytest.fixture(scope="module")
def classifier(make_gpt: Callable[..., GPT]) -> GPTClassifier:
    classifier = GPTClassifier(make_gpt(context_length=64), 3, label_names=["好", "bad", "so so"])
    classifier.head.kernel.assign(np.random.default_rng(0).normal(size=(32, 3)))
    return classifier


@pytest.fixture(scope="module")
def folder(classifier: GPTClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier") / "1"
    classifier.export(folder, max_batch=len(TEXTS))
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return tf.saved_model.load(str(folder))


@pytest.fixture(scope="module")
def classify(loaded: Any) -> Any:
    assert set(loaded.signatures) == {"serving_default", "classify_text", "classify"}

    def call(texts: list[str]) -> Any:
        return loaded.signatures["classify_text"](text=tf.constant(texts))

    return call


def test_answers_are_those_of_predict(classifier: GPTClassifier, classify: Any) -> None:
    """In a batch and alone; a text longer than the context loses its end, as in training."""
    answer = classify(TEXTS)
    expected = classifier.predict(TEXTS)
    assert len(set(expected.argmax(-1))) > 1
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answer["probability"], expected.max(-1), rtol=1e-4)
    names = [label.decode() for label in answer["label"].numpy()]
    assert names == classifier.classify(TEXTS)
    alone = classify(TEXTS[:1])
    np.testing.assert_allclose(alone["probabilities"], expected[:1], rtol=1e-4, atol=1e-6)


def test_an_empty_text_is_named(classify: Any) -> None:
    """It has no last token."""
    with pytest.raises(tf.errors.InvalidArgumentError, match="text must not be empty"):
        classify(["dog", ""])


def test_a_classifier_without_a_tokenizer_is_refused(
    make_gpt: Callable[..., GPT], tmp_path: Path
) -> None:
    """Strings could not go in; nothing is written."""
    classifier = GPTClassifier(make_gpt(tokenizer=None, num_layers=1), 2)
    with pytest.raises(ValueError, match="tokenizer=None"):
        classifier.export(tmp_path / "1")
    assert not (tmp_path / "1").exists()


def example(**features: bytes) -> bytes:
    """Serialize a tf.Example of byte features."""
    message = tf.train.Example()
    for name, value in features.items():
        message.features.feature[name].bytes_list.value.append(value)
    return bytes(message.SerializeToString())


def test_classify_has_the_shape_of_the_classify_api(
    classifier: GPTClassifier, loaded: Any, folder: Path, read_graph: Callable[[Path], Any]
) -> None:
    """Method, names, dtypes and ranks are those that TensorFlow Serving looks for."""
    definitions = read_graph(folder).signature_def
    definition = definitions["classify"]
    assert definition.method_name == "tensorflow/serving/classify"
    assert set(definition.inputs) == {"inputs"}
    assert set(definition.outputs) == {"classes", "scores"}
    assert definitions["serving_default"].method_name == "tensorflow/serving/predict"
    examples = [example(text=text.encode(), other=b"is not looked at") for text in TEXTS]
    answer = loaded.signatures["classify"](inputs=tf.constant(examples))
    assert (answer["classes"].dtype, answer["scores"].dtype) == (tf.string, tf.float32)
    np.testing.assert_allclose(answer["scores"], classifier.predict(TEXTS), rtol=1e-4, atol=1e-6)
    for row in answer["classes"].numpy():
        assert [label.decode() for label in row] == classifier.label_names
    with pytest.raises(tf.errors.InvalidArgumentError, match="text"):
        loaded.signatures["classify"](inputs=tf.constant([example(words=b"dog")]))


def test_more_rows_than_exported_for_are_refused(classify: Any) -> None:
    """And the warm-up requests are for so many."""
    with pytest.raises(tf.errors.InvalidArgumentError, match="text must have at most 5 rows"):
        classify([*TEXTS, "dog"])


def test_the_warm_up_asks_for_every_bucket(classifier: GPTClassifier, folder: Path) -> None:
    """Read with the messages of TensorFlow Serving's own package."""
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    asked = set()
    for record in tf.data.TFRecordDataset(str(folder / WARMUP_FILE)):
        request = logs.PredictionLog.FromString(record.numpy()).predict_log.request
        texts = tf.make_ndarray(request.inputs["text"])
        length = len(classifier.tokenizer.encode(texts[0].decode()))
        asked.add((request.model_spec.signature_name, len(texts), length))
    assert asked == {
        ("classify_text", rows, length) for rows in (1, 2, 4, 5) for length in (32, 64)
    }
