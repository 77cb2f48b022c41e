"""Training on the next-token loss, which works on states and not on logits."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gpt import losses
from keras_gpt.config import GPTConfig
from keras_gpt.models.inputs import check_batches, check_next_ids
from keras_gpt.models.integer_weights import require_trainable


class TrainingOutputs(NamedTuple):
    """What a call gives inside a step that computes the next-token loss itself."""

    states: Any  # (batch, time, embedding_dim)
    logits: Any  # (batch, time, vocab_size), or None where no metric asks for them


class NextTokenModel(keras.Model):
    """A Keras model that, compiled without a loss, trains on the next-token loss.

    Its `call` gives `TrainingOutputs` while `is_in_own_step`, and logits otherwise.
    """

    config: GPTConfig
    is_in_own_step = False

    def output_matrix(self) -> Any:
        """Give the output projection, (vocab_size, embedding_dim)."""
        raise NotImplementedError

    @property
    def has_metrics(self) -> bool:
        """Whether the model was compiled with metrics."""
        return self._compile_metrics is not None

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Configure training as Keras does; without a loss, for the next-token loss."""
        # Keras keeps those of an earlier compile where none are given.
        self._compile_loss = self._compile_metrics = None
        super().compile(*args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a saved model was; Keras leaves this to whoever overrides `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run one step of Keras' own loop."""
        with self._own_step():
            return super().train_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run one evaluation step of Keras' own loop."""
        with self._own_step():
            return super().test_step(*args, **kwargs)

    @contextlib.contextmanager
    def _own_step(self) -> Iterator[None]:
        self.is_in_own_step = self._compile_loss is None
        try:
            yield
        finally:
            self.is_in_own_step = False

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Compute the loss of a batch: the compiled one, or else the next-token loss."""
        if not isinstance(y_pred, TrainingOutputs):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        check_next_ids(y, tuple(y_pred.states.shape)[:-1])
        loss_function = (
            losses.next_token_loss if training else losses.next_token_loss_without_gradient
        )
        loss = loss_function(y_pred.states, self.output_matrix(), y, sample_weight)
        for extra in self.losses:  # what regularizers and add_loss bring
            loss = loss + ops.cast(ops.sum(extra), loss.dtype)
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the compiled metrics, which get logits."""
        if isinstance(y_pred, TrainingOutputs):
            y_pred = y_pred.logits
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as Keras does, after a look at the ids (all of an array, one batch else)."""
        require_trainable(self)
        check_batches(x, y, self.config)
        if hasattr(x, "element_spec"):
            kwargs.setdefault("shuffle", False)  # Keras warns that it cannot shuffle a dataset
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as `keras.Model.evaluate` does, after a look at the ids."""
        check_batches(x, y, self.config)
        return super().evaluate(x, y, *args, **kwargs)
