"""Saving and reading, for every model of the package."""

import gc
import os
import warnings
from typing import Any

import keras

from keras_gpt.checkpoints import Checkpoint, named_tensors, open_checkpoint, save_preset
from keras_gpt.files import whole_file
from keras_gpt.memory import give_back_memory
from keras_gpt.models.integer_weights import mode_of, oddly_changed

# Modes with one way to round, and the configs that Keras makes for them.
_USUAL = {
    "int8": keras.quantizers.Int8QuantizationConfig,
    "int4": keras.quantizers.Int4QuantizationConfig,
}


class Keeping(keras.Model):
    """`save`, `save_to_preset`, and what `from_preset` needs, for a model with a tokenizer."""

    tokenizer: Any
    generation_settings: Any

    def save(
        self,
        filepath: str | os.PathLike[str],
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Save as `keras.Model.save` does, but so that the file appears whole or not at all.

        Args:
            filepath: the `.keras` file. An older one stays until the new one is complete.
            overwrite: whether an older one is replaced without a question.
            zipped: as for `keras.Model.save`.
            **kwargs: as for `keras.Model.save`.

        Raises:
            ValueError: layers are quantized otherwise than by `quantize("int8")` or
                `quantize("int4")` of the whole model, or are quantized and have LoRA weights.
        """
        if any(map(_is_quantized, self._flatten_layers())):
            self._require_plain_or_whole("a .keras file")
        if not overwrite or zipped is False:
            super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)
            return
        with whole_file(filepath) as scratch:
            super().save(scratch, zipped=zipped, **kwargs)

    def save_to_preset(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write config, weights (safetensors) and tokenizer into one folder, whole or not at all.

        A model in "int8" or "int4" is kept as integers and scales, and is read as such.

        Args:
            folder: where to.
            overwrite: whether a non-empty folder may be replaced.

        Raises:
            FileExistsError: the folder holds something and `overwrite` is False.
            ValueError: layers have LoRA weights, or are quantized otherwise than by
                `quantize("int8")` or `quantize("int4")` of the whole model.

        Example:
            >>> gpt.save_to_preset("my-gpt/")
            >>> same = keras_gpt.GPT.from_preset("my-gpt/")
        """
        self._require_plain_or_whole("a preset")
        save_preset(
            folder,
            type(self).__name__,
            self._preset_config(),
            named_tensors(self.weights),
            self.tokenizer,
            self.generation_settings,
            overwrite,
            self.quantized_mode,
        )

    def quantize(self, mode: Any = None, config: Any = None, **kwargs: Any) -> None:
        """Replace the weights by integers, for good: smaller, and faster to generate with.

        In "int8" each output's weights become integers up to 127 times a scale. In "int4" they become
        integers from 0 to 15, two a byte, with a multiplier and an offset for each 32 of them: little
        more than half the memory of "int8", slower, and farther from the full model. The floats'
        memory goes back to the system, or where TensorFlow uses oneDNN to its own allocator.
        `from_preset(..., quantize="int8")` gives the same without ever having all the floats.

        Args:
            mode: "int8", "int4" or another of Keras' modes.
            config: one of Keras' quantization configs in place of a mode; "int8" and "int4" have the
                usual only.
            **kwargs: as for `keras.Model.quantize`.

        Raises:
            ValueError: there is no such mode, `config` asks for another "int8" or "int4", or
                weights are integers already; none is changed then.

        Example:
            >>> gpt.quantize("int8")
            >>> gpt.generate("Once upon a time", max_new_tokens=20)
        """
        # Keras makes the usual config of a mode before it calls this.
        asked = getattr(config, "mode", None)
        if asked in _USUAL and config.get_config() != _USUAL[asked]().get_config():
            raise ValueError(
                f"config must be the usual one for {asked}, whose rounding is fixed here: pass "
                f'mode="{asked}". Received: config={config.get_config()}'
            )
        done = [layer.path for layer in self._flatten_layers() if _is_quantized(layer)]
        if done and kwargs.get("filters") is None:
            raise ValueError(
                "quantize takes a model of floats: load the weights once more to round them in "
                f"another mode. Received: {len(done)} layers that are already quantized, the first "
                f"is {done[0]}"
            )
        with warnings.catch_warnings():
            # Norms have nothing to quantize, which Keras would say once for each of them.
            warnings.filterwarnings("ignore", message="Layer .* does not have a `quantize` method")
            # Keras collects garbage after every matrix, which takes a quarter of a second with all
            # that TensorFlow has loaded: what is there already is not looked through.
            gc.collect()
            is_free = gc.get_freeze_count() == 0  # what an application froze stays so
            gc.freeze()
            try:
                super().quantize(mode, config=config, **kwargs)
            finally:
                if is_free:
                    gc.unfreeze()
        give_back_memory()

    @property
    def quantized_mode(self) -> str | None:
        """The mode that all matrices are in, "int8" or "int4"; None where they are floats."""
        return mode_of(self)

    def _preset_config(self) -> dict[str, Any]:
        raise NotImplementedError

    def _require_plain_weights(self, what: str) -> None:
        """Refuse to write weights that were quantized, or that LoRA adds to."""
        changed = [layer.path for layer in self._flatten_layers() if _is_changed(layer)]
        if changed:
            raise ValueError(
                f"{what} holds plain weights: save it before quantize or enable_lora, or load the "
                "weights once more without quantize (save_to_preset and export take integers). "
                f"Received: {len(changed)} changed layers, such as {changed[0]}"
            )

    def _require_plain_or_whole(self, what: str) -> None:
        """Refuse to write weights that could not be read again as they are."""
        odd = oddly_changed(self)
        if odd:
            raise ValueError(
                f'{what} holds plain weights, or all matrices in "int8" or in "int4": save the model '
                "before quantize or enable_lora, or use export. Received: "
                f"{len(odd)} changed layers, such as {odd[0]}"
            )

    @classmethod
    def _open(cls, source: str | os.PathLike[str], with_weights: bool = True) -> Checkpoint:
        checkpoint = open_checkpoint(source, with_weights)
        if checkpoint.model != cls.__name__:
            raise ValueError(
                f"source must hold a {cls.__name__}. Received: source={os.fspath(source)!r}, which "
                f"holds a {checkpoint.model}"
            )
        return checkpoint


def _is_changed(layer: Any) -> bool:
    """Say whether a layer was quantized or given LoRA weights."""
    return _is_quantized(layer) or bool(getattr(layer, "lora_enabled", False))


def _is_quantized(layer: Any) -> bool:
    return bool(getattr(layer, "quantization_mode", None))
