"""Where a GPT comes from and where it goes: presets, other libraries' formats, SavedModel."""

import os
from typing import Any, Self

from keras_gpt.checkpoints import require_size, save_huggingface
from keras_gpt.config import GPTConfig
from keras_gpt.models.integer_weights import (
    chosen_mode,
    load_into,
    require_mode,
    split_policy,
    with_mode,
)
from keras_gpt.models.keeping import Keeping


class Formats(Keeping):
    """`from_preset`, `save_to_huggingface`, `save_to_gguf` and `export`, for `GPT`."""

    config: GPTConfig

    @classmethod
    def from_preset(
        cls,
        source: str | os.PathLike[str],
        dtype: Any = None,
        load_weights: bool = True,
        quantize: str | None = None,
    ) -> Self:
        """Make a model from weights that exist, or from a published architecture.

        Weights are read tensor by tensor, so that the peak of memory stays near the model's own
        size. Everything is checked before the first one is used.

        Args:
            source: a folder that `save_to_preset` wrote; a folder of Hugging Face's library
                (GPT-1, GPT-2, Llama) or `hf://owner/name[@revision]`; OpenAI's original GPT-2 or
                GPT-1 release; a KerasHub GPT-2 preset, or `kaggle://...`; a `.gguf` file, or
                `hf://owner/name/file.gguf`; the name of a model that `keras-gpt models pull` has
                fetched; or a name that `GPTConfig.preset` knows (with `load_weights=False`).
            dtype: a Keras dtype policy, such as "bfloat16"; weights are cast as they are read.
                None is Keras' global one.
            load_weights: whether to read the weights, or to start from random ones.
            quantize: "int8" or "int4": the model is made of integers from the start, those that
                `quantize` would make of it, and each matrix is rounded as it is read. A preset of
                a quantized model is loaded as it was saved, by itself.

        Raises:
            FileNotFoundError: there is no such source, or a part of it is missing.
            ValueError: it is damaged, or of an architecture that is not supported; or `quantize`
                is no such mode, or not the one that the source was quantized in.
            ConnectionError: it must be downloaded, and cannot be.

        Example:
            >>> gpt = GPT.from_preset("hf://openai-community/gpt2")
            >>> gpt = GPT.from_preset("hf://openai-community/gpt2", quantize="int8")
            >>> gpt = GPT.from_preset("gpt2", load_weights=False)
        """
        require_mode(quantize)
        if not load_weights and split_policy(dtype)[1] is not None:
            raise ValueError(
                "dtype must be a policy of floats where no weights are loaded: pass quantize for "
                f"random ones that are rounded. Received: dtype={dtype!r}, load_weights=False"
            )
        if not os.path.exists(source) and str(source) in GPTConfig.preset_names():
            if load_weights:
                raise ValueError(
                    "source is the name of an architecture, and no weights come with this package: "
                    "pass load_weights=False for random ones, or a folder, or hf://owner/name. "
                    f"Received: source={source!r}, load_weights=True"
                )
            model = cls(**GPTConfig.preset(str(source)).to_dict(), dtype=dtype)
            if quantize is not None:
                model.quantize(quantize)
            return model
        checkpoint = cls._open(source, load_weights)
        mode = chosen_mode(checkpoint, quantize)
        config = GPTConfig.from_dict(checkpoint.config)
        if load_weights:
            require_size(
                checkpoint.source, checkpoint.tensors, config.num_layers, config.num_parameters
            )
        model = cls(
            **config.to_dict(),
            tokenizer=checkpoint.tokenizer,
            generation_settings=checkpoint.settings,
            # Random weights are floats first; those that are read are never all floats.
            dtype=with_mode(dtype, mode if load_weights else None),
        )
        if load_weights:
            load_into(model, checkpoint)
        elif mode is not None:
            model.quantize(mode)
        return model

    def _preset_config(self) -> dict[str, Any]:
        return self.config.to_dict()

    def save_to_huggingface(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write a folder that Hugging Face's library loads: weights, tokenizer, settings.

        The architecture decides between its GPT-1, GPT-2 and Llama classes.

        Args:
            folder: where to; it appears whole or not at all.
            overwrite: whether a non-empty folder may be replaced.

        Raises:
            FileExistsError: the folder holds something and `overwrite` is False.
            ValueError: no class there has what this model has (the message names the field), or
                layers are quantized or have LoRA weights.

        Example:
            >>> gpt.save_to_huggingface("my-gpt-hf/")
        """
        self._require_plain_weights("Hugging Face's folder")
        save_huggingface(
            folder,
            self.config,
            self.weights,
            self.tokenizer,
            self.generation_settings,
            overwrite,
        )

    def save_to_gguf(
        self, path: str | os.PathLike[str], dtype: str = "f16", overwrite: bool = False
    ) -> None:
        """Write a `.gguf` file, which llama.cpp and its kin read: weights, tokenizer, settings.

        Args:
            path: the file; it appears whole or not at all.
            dtype: of the matrices: "f32" (exact), "f16" or "q8_0".
            overwrite: whether an older file may be replaced.

        Raises:
            FileExistsError: the file exists and `overwrite` is False.
            ValueError: the format has no such architecture or `dtype`, or layers are quantized or
                have LoRA weights.

        Example:
            >>> gpt.save_to_gguf("my-gpt.gguf", dtype="q8_0")
        """
        from keras_gpt.checkpoints.gguf_writer import save_gguf

        self._require_plain_weights("a gguf file")
        save_gguf(
            path,
            self.config,
            self.weights,
            self.tokenizer,
            self.generation_settings,
            dtype=dtype,
            overwrite=overwrite,
        )

    def save_to_keras_hub(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write a KerasHub GPT-2 preset, which `keras_hub.models.GPT2CausalLM.from_preset` loads.

        It has no place for the generation settings; a warning names those that are left out.

        Args:
            folder: where to; it appears whole or not at all.
            overwrite: whether a non-empty folder may be replaced.

        Raises:
            FileExistsError: the folder holds something and `overwrite` is False.
            ValueError: KerasHub's GPT-2 has not what this model or its tokenizer has (the message
                names the field), or layers are quantized or have LoRA weights.

        Example:
            >>> gpt.save_to_keras_hub("my-gpt-keras-hub/")
        """
        from keras_gpt.checkpoints.keras_hub import save_keras_hub

        self._require_plain_weights("a KerasHub preset")
        save_keras_hub(
            folder,
            self.config,
            self.weights,
            self.tokenizer,
            self.generation_settings,
            overwrite=overwrite,
        )

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        overwrite: bool = False,
        max_batch: int | None = None,
        max_new_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a SavedModel for TensorFlow Serving: strings in, strings out. Or write ONNX.

        Its signatures are `generate` (the default), `score`, `embed` and `token_logits`; tokenizer,
        cache, decode loop and sampling are inside, in core TensorFlow operations.

        Args:
            filepath: the folder of one version, such as "saved_models/my-gpt/1", or a `.onnx` file.
            format: "tf_saved_model"; or "onnx", which takes token_ids (batch, time) int32 and gives
                logits (batch, time, vocab_size), and needs the extra `onnx`; any other goes to
                Keras' own `export`, with `kwargs`.
            overwrite: whether a non-empty folder, or a file, may be replaced.
            max_batch: of a SavedModel, the most rows of a request, or of those that a server puts
                together. With it go requests that have a server compile for every shape before it
                takes others. None is any number, and leaves compiling to the first requests.
            max_new_tokens: of a SavedModel, the most new tokens of an answer, and what a request
                that does not say gets, but no more than half the context. None is whatever fits the
                context, and 64.

        Raises:
            FileExistsError: the folder holds something and `overwrite` is False.
            TypeError: `kwargs` come with a format of our own.
            ValueError: an argument is out of range, or the format has no place for this model.

        Example:
            >>> gpt.export("saved_models/my-gpt/1", max_batch=8, max_new_tokens=256)
            >>> gpt.export("my-gpt.onnx", format="onnx")
        """
        if kwargs and format in ("tf_saved_model", "onnx"):
            raise TypeError(f"export takes no such argument: {', '.join(kwargs)}")
        if format == "tf_saved_model":
            from keras_gpt.export import export_gpt

            export_gpt(self, filepath, overwrite, max_batch, max_new_tokens)
            return
        if max_batch is not None or max_new_tokens is not None:
            raise ValueError(
                'max_batch and max_new_tokens belong to format="tf_saved_model". Received: '
                f"format={format!r}, max_batch={max_batch}, max_new_tokens={max_new_tokens}"
            )
        if format == "onnx":
            from keras_gpt.export import export_onnx

            self._require_plain_weights("an ONNX file")
            export_onnx(self, filepath, overwrite)
            return
        super().export(filepath, format=format, **kwargs)
