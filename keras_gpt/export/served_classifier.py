"""A classifier as a SavedModel's functions: one a signature."""

from typing import Any, Protocol

import tensorflow as tf

from keras_gpt.export.graph_decode import bucket_in_graph, in_batch_bucket
from keras_gpt.export.graph_inputs import Rows, spec, to_width


class Classifier(Protocol):
    """What this room knows of a classifier."""

    gpt: Any
    label_names: list[str]
    variables: list[Any]

    def class_logits(self, token_ids: Any, lengths: Any) -> Any:
        """Give (batch, num_classes) logits; see `GPTClassifier.class_logits`."""


# The feature of a tf.Example that holds the text.
EXAMPLE_FEATURE = "text"


class ServedClassifier(tf.Module):
    """What is saved: the weights, the tokenizer's tables and one function a signature.

    Args:
        model: whose weights and tokenizer go along.
        max_batch: the most rows of a request; None is any.

    Raises:
        ValueError: the classifier's GPT has no tokenizer.
    """

    def __init__(self, model: Classifier, max_batch: int | None = None) -> None:
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
        rows = Rows(self.tokenizer, model.gpt.config.vocab_size, max_batch)
        logits_of = tf.function(model.class_logits, jit_compile=True, autograph=False)

        def probabilities_of(text: Any) -> Any:
            token_ids, lengths = rows.tokens(text, "text", least=1)
            ragged = tf.RaggedTensor.from_tensor(token_ids, lengths)
            # As in training: what is beyond the context is cut off.
            lengths = tf.minimum(lengths, context)
            time = bucket_in_graph(tf.reduce_max(lengths), context)
            logits = in_batch_bucket(logits_of, to_width(ragged, time), lengths)
            return tf.nn.softmax(tf.cast(logits, tf.float32), axis=-1)

        def classify_text(text: Any) -> dict[str, Any]:
            probabilities = probabilities_of(text)
            return {
                "label": tf.gather(labels, tf.argmax(probabilities, axis=-1)),
                "probability": tf.reduce_max(probabilities, axis=-1),
                "probabilities": probabilities,
            }

        self.classify_text = tf.function(
            classify_text, input_signature=[rows.spec("text")], autograph=False
        )

        def classify(inputs: Any) -> dict[str, Any]:
            """Take serialized tf.Examples: the names are those of TensorFlow Serving's Classify."""
            feature = tf.io.FixedLenFeature([], tf.string)
            text = tf.io.parse_example(inputs, {EXAMPLE_FEATURE: feature})[EXAMPLE_FEATURE]
            scores = probabilities_of(text)
            return {"classes": tf.broadcast_to(labels, tf.shape(scores)), "scores": scores}

        self.classify = tf.function(
            classify, input_signature=[spec(tf.string, "inputs")], autograph=False
        )
