"""Text classification: a GPT and a dense layer on the last real token's state."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_gpt.checkpoints import require_size
from keras_gpt.config import GPTConfig
from keras_gpt.generation_settings import GenerationSettings
from keras_gpt.models.gpt import GPT
from keras_gpt.models.integer_weights import chosen_mode, load_into, require_trainable, with_mode
from keras_gpt.models.keeping import Keeping
from keras_gpt.models.text_batches import TextBatches, is_text

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer


@keras.saving.register_keras_serializable("keras_gpt")
class GPTClassifier(Keeping, keras.Model):
    """A classifier of texts.

    The state of each text's last token, which has seen all of it, goes through dropout and one
    dense layer.

    Args:
        gpt: the model to fine-tune. It is trained along, not copied.
        num_classes: number of classes, at least 2.
        label_names: a name for each class; by default "0", "1", ...
        dropout: rate before the dense layer.
        name: the model's name.
        dtype: a Keras dtype policy; by default the GPT's.

    Call arguments:
        inputs: token ids (batch, time), or a dictionary with "token_ids" and "padding_mask".
        training: whether dropout acts.
        mask: (batch, time), True at real tokens.

    Returns:
        Logits (batch, num_classes). `predict` gives probabilities.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> clf = GPTClassifier(gpt, num_classes=2, label_names=["bad", "good"])
        >>> clf.fit(["a fine film", "a dull film"], [1, 0], epochs=3)
        >>> clf.classify(["a fine film"])
        ['good']

    Source: "Improving Language Understanding by Generative Pre-Training", equation 3.
    """

    def __init__(
        self,
        gpt: GPT,
        num_classes: int,
        label_names: Sequence[str] | None = None,
        dropout: float = 0.1,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        if not isinstance(gpt, GPT):
            raise TypeError(f"gpt must be a keras_gpt.GPT. Received: {type(gpt).__name__}")
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise ValueError(
                f"num_classes must be 2 or more. Received: num_classes={num_classes!r}"
            )
        names = [str(index) for index in range(num_classes)]
        if label_names is not None:
            names = [str(label) for label in label_names]
        if len(names) != num_classes or len(set(names)) != num_classes:
            raise ValueError(
                f"label_names must be {num_classes} different names. Received: label_names={names}"
            )
        super().__init__(name=name, dtype=gpt.dtype_policy if dtype is None else dtype)
        self.gpt = gpt
        self.num_classes = num_classes
        self.label_names = names
        self.dropout_rate = dropout
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")
        self.head = keras.layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.RandomNormal(stddev=gpt.config.initializer_range),
            dtype=self.dtype_policy,
            name="head",
        )
        self.supports_masking = True  # it takes a mask; `compute_mask` says what becomes of it
        self.build((None, None))

    @property
    def tokenizer(self) -> "Tokenizer | None":
        """The GPT's tokenizer."""
        return self.gpt.tokenizer

    @property
    def generation_settings(self) -> GenerationSettings:
        """The GPT's settings, which a preset keeps."""
        return self.gpt.generation_settings

    def build(self, input_shape: Any) -> None:
        """Make the dense layer's weights."""
        if not self.built:
            self.head.build((None, self.gpt.config.embedding_dim))

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Give the logits of each class."""
        parts = dict(inputs) if isinstance(inputs, dict) else {"token_ids": inputs}
        if mask is None or isinstance(mask, dict):  # a dictionary is Keras' own
            mask = parts.get("padding_mask")
        token_ids = ops.convert_to_tensor(parts["token_ids"])
        states = self.gpt.hidden_states(token_ids, training=training, mask=mask)
        time = ops.shape(token_ids)[1]
        if mask is None:
            last = ops.zeros((ops.shape(token_ids)[0],), dtype="int32") + time - 1
        else:
            places = ops.where(ops.cast(mask, "bool"), ops.arange(time, dtype="int32")[None], 0)
            last = ops.max(places, axis=1)
        states = ops.take_along_axis(states, ops.reshape(last, (-1, 1, 1)), axis=1)
        return self.head(self.dropout(states[:, 0, :], training=training))

    def class_logits(self, token_ids: Any, lengths: Any) -> Any:
        """Give the logits of rows that are padded on the right.

        Args:
            token_ids: (batch, time) int32.
            lengths: (batch,) int32, real tokens of each row.

        Returns:
            (batch, num_classes).
        """
        places = ops.arange(ops.shape(token_ids)[1], dtype="int32")[None]
        return self(token_ids, training=False, mask=places < ops.expand_dims(lengths, 1))

    # -- training and prediction on text ----------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Compile as Keras does, with every metric weighted: a row that fills a batch counts nowhere."""
        given = [each for each in (metrics, weighted_metrics) if each is not None]
        super().compile(
            optimizer,
            loss,
            loss_weights,
            weighted_metrics=keras.tree.flatten(given) or None,
            **kwargs,
        )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a loaded model; Keras leaves this to models with a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int = 32,
        epochs: int = 1,
        validation_data: Any = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Fine-tune on labelled texts, or on whatever `keras.Model.fit` takes.

        A model that was not compiled is compiled with AdamW (learning rate 3e-4) and accuracy.

        Args:
            x: a `keras_gpt.data.LabelledText`, or a list of texts (with `y`). A text longer than
                the context loses its end.
            y: (texts,) int labels.
            batch_size: texts a step.
            epochs: passes over the texts.
            validation_data: a `LabelledText`, or (texts, labels).
            seed: of the order of the texts.
            **kwargs: the other arguments of `keras.Model.fit`.

        Returns:
            Keras' History.

        Raises:
            ValueError: there are no texts or labels, a text is empty, a label is out of range, or
                the GPT's matrices are integers.
        """
        require_trainable(self)
        if not self.compiled:
            self.compile(
                optimizer=keras.optimizers.AdamW(3e-4, global_clipnorm=1.0),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                weighted_metrics=["accuracy"],
                jit_compile=True,
            )
        if is_text(x):
            x, y = self._batches(*_texts_and_labels(x, y), batch_size, seed), None
            if validation_data is not None:
                validation_data = self._batches(*_pair(validation_data), batch_size)
            batch_size = None  # type: ignore[assignment]
        return super().fit(
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            validation_data=validation_data,
            **kwargs,
        )

    def evaluate(self, x: Any = None, y: Any = None, batch_size: int = 32, **kwargs: Any) -> Any:
        """Evaluate on labelled texts, or on whatever `keras.Model.evaluate` takes."""
        if is_text(x):
            batches = self._batches(*_texts_and_labels(x, y), batch_size)
            return super().evaluate(batches, **kwargs)
        return super().evaluate(x, y, batch_size=batch_size, **kwargs)

    def predict(self, x: Any, batch_size: int = 32, verbose: Any = 0, **kwargs: Any) -> np.ndarray:
        """Give the probability of each class.

        Args:
            x: texts, or whatever `keras.Model.predict` takes.
            batch_size: texts a step.
            verbose: as for `keras.Model.predict`.
            **kwargs: the other arguments of `keras.Model.predict`.

        Returns:
            (texts, num_classes) float32; rows sum to one.
        """
        if not is_text(x):
            logits = super().predict(x, batch_size=batch_size, verbose=verbose, **kwargs)
            return _softmax(logits)
        batches = self._batches(getattr(x, "texts", x), None, batch_size)
        logits = super().predict(batches, verbose=verbose, **kwargs)
        return _softmax(batches.in_given_order(logits))

    def classify(self, texts: Sequence[str]) -> list[str]:
        """Give the name of each text's most probable class."""
        return [self.label_names[best] for best in self.predict(texts).argmax(axis=-1)]

    def _batches(
        self, texts: Any, labels: Any, batch_size: int, shuffle_seed: int | None = None
    ) -> TextBatches:
        if self.tokenizer is None:
            raise ValueError(
                "x is text, and this classifier's GPT has no tokenizer: make the GPT with "
                "tokenizer=..., or give token ids. Received: tokenizer=None"
            )
        return TextBatches(
            texts,
            labels,
            self.tokenizer,
            self.num_classes,
            batch_size,
            self.gpt.config.context_length,
            shuffle_seed,
        )

    # -- keeping ----------------------------------------------------------------------------------

    def quantize(self, mode: Any = None, config: Any = None, **kwargs: Any) -> None:
        """Replace the GPT's weights by integers, as `GPT.quantize` does.

        The dense layer on top stays as it is: it is small, and every answer hangs on it alone.

        Args:
            mode: as for `GPT.quantize`.
            config: as for `GPT.quantize`.
            **kwargs: as for `keras.Model.quantize`; `filters` in place of all layers but the last.
        """
        if kwargs.get("filters") is None:
            self.gpt.quantize(mode, config=config, **kwargs)
        else:
            super().quantize(mode, config=config, **kwargs)

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        overwrite: bool = False,
        max_batch: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a SavedModel for TensorFlow Serving: text in; label and probabilities out.

        Its signatures are `classify_text` (the default), and `classify` for TensorFlow Serving's
        Classify API: tf.Examples with the feature "text" in; classes and scores out.

        Args:
            filepath: the folder of one version, such as "saved_models/my-classifier/1".
            format: "tf_saved_model"; any other goes to Keras' own `export`, with `kwargs`.
            overwrite: whether a non-empty folder may be replaced.
            max_batch: of a SavedModel, the most texts of a request; as for `GPT.export`.

        Raises:
            FileExistsError: the folder holds something and `overwrite` is False.
            TypeError: `kwargs` come with "tf_saved_model".
            ValueError: an argument is out of range, or the GPT has no tokenizer.

        Example:
            >>> clf.export("saved_models/my-classifier/1", max_batch=8)
        """
        if format != "tf_saved_model":
            if max_batch is not None:
                raise ValueError(
                    'max_batch belongs to format="tf_saved_model". Received: '
                    f"format={format!r}, max_batch={max_batch}"
                )
            super().export(filepath, format=format, **kwargs)
            return
        if kwargs:
            raise TypeError(f"export takes no such argument: {', '.join(kwargs)}")
        from keras_gpt.export import export_classifier

        export_classifier(self, filepath, overwrite, max_batch)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Give no mask on: the logits have no time axis."""

    def compute_output_shape(self, input_shape: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Give the shape of the logits."""
        if isinstance(input_shape, dict):
            input_shape = input_shape["token_ids"]
        return (input_shape[0], self.num_classes)

    def compute_output_spec(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> keras.KerasTensor:
        """Give shape and dtype of the logits."""
        token_ids = inputs["token_ids"] if isinstance(inputs, dict) else inputs
        return keras.KerasTensor((token_ids.shape[0], self.num_classes), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Give what the model is made from."""
        return {
            "gpt": keras.saving.serialize_keras_object(self.gpt),
            "num_classes": self.num_classes,
            "label_names": self.label_names,
            "dropout": self.dropout_rate,
            "name": self.name,
            "dtype": super().get_config()["dtype"],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "GPTClassifier":
        """Make the model from what `get_config` gave."""
        config = dict(config)
        config["gpt"] = keras.saving.deserialize_keras_object(config["gpt"])
        return cls(**config)

    @classmethod
    def from_preset(
        cls,
        source: str | os.PathLike[str],
        dtype: Any = None,
        quantize: str | None = None,
    ) -> "GPTClassifier":
        """Make a classifier from a folder that `save_to_preset` wrote.

        Args:
            source: the folder.
            dtype: a Keras dtype policy; None is Keras' global one.
            quantize: as for `GPT.from_preset`.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: the folder's files are damaged, or hold another kind of model; or
                `quantize` is no such mode, or not the one that the folder was quantized in.
        """
        checkpoint = cls._open(source)
        mode = chosen_mode(checkpoint, quantize)
        config = dict(checkpoint.config)
        gpt_config = GPTConfig.from_dict(config.pop("gpt", {}))
        if (
            not set(config) <= {"num_classes", "label_names", "dropout"}
            or not isinstance(config.get("num_classes"), int)
            or not isinstance(config.get("label_names"), list | None)
        ):
            raise ValueError(
                "the folder's config.json must have num_classes (an integer), label_names (a list) "
                f"and dropout beside gpt. Received: source={os.fspath(source)!r}, with "
                f"{config!r:.300}"
            )
        size = gpt_config.num_parameters + config["num_classes"] * gpt_config.embedding_dim
        require_size(checkpoint.source, checkpoint.tensors, gpt_config.num_layers, size)
        gpt = GPT(
            **gpt_config.to_dict(),
            tokenizer=checkpoint.tokenizer,
            generation_settings=checkpoint.settings,
            dtype=with_mode(dtype, mode),
            name="gpt",
        )
        model = cls(gpt, **config)
        load_into(model, checkpoint)
        return model

    def _preset_config(self) -> dict[str, Any]:
        return {
            "gpt": self.gpt.config.to_dict(),
            "num_classes": self.num_classes,
            "label_names": self.label_names,
            "dropout": self.dropout_rate,
        }


def _texts_and_labels(x: Any, y: Any) -> tuple[Any, Any]:
    """Take a `LabelledText`, or texts and their labels."""
    if y is None and not hasattr(x, "labels"):
        raise ValueError("y must hold the label of each text. Received: y=None")
    return (x, y) if y is not None else _pair(x)


def _pair(data: Any) -> tuple[Any, Any]:
    """Take a `LabelledText`, or (texts, labels)."""
    return (data.texts, data.labels) if hasattr(data, "labels") else (data[0], data[1])


def _softmax(logits: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(ops.softmax(np.asarray(logits, "float32"), axis=-1))
