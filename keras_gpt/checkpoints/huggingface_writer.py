"""Writing a folder that Hugging Face's library loads."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_gpt.checkpoints.checkpoint import split_tensors
from keras_gpt.checkpoints.huggingface_families import family_of_config
from keras_gpt.checkpoints.safetensors_files import write_safetensors
from keras_gpt.config import GPTConfig
from keras_gpt.files import whole_folder
from keras_gpt.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer


def save_huggingface(
    folder: str | os.PathLike[str],
    config: GPTConfig,
    variables: Sequence[Any],
    tokenizer: "Tokenizer | None",
    settings: GenerationSettings,
    overwrite: bool = False,
) -> None:
    """Write config, weights, tokenizer and generation settings as `save_pretrained` does.

    Args:
        folder: where to; it appears whole or not at all.
        config: the model's; it decides between GPT-1, GPT-2 and Llama.
        variables: the model's Keras variables, which keep their dtypes.
        tokenizer: goes along where there is one.
        settings: go along.
        overwrite: whether a non-empty folder may be replaced.

    Raises:
        FileExistsError: the folder holds something and `overwrite` is False.
        ValueError: no architecture there has what this config has; the message names the field.
    """
    family = family_of_config(config)
    content = {
        "architectures": [family.class_name],
        "model_type": family.model_type,
        **family.write(config),
        **_token_ids(tokenizer, settings),
    }
    with whole_folder(folder, overwrite) as scratch:
        tensors = split_tensors(family.tensors(config), variables)
        content["dtype"] = content["torch_dtype"] = next(iter(tensors.values())).dtype
        write_safetensors(scratch / "model.safetensors", tensors, format="pt")
        _write_json(scratch / "config.json", content)
        _write_json(scratch / "generation_config.json", _generation(tokenizer, settings))
        if tokenizer is not None:
            tokenizer.save(scratch)
            _write_json(scratch / "tokenizer_config.json", _tokens(config, tokenizer, settings))
        if settings.chat_template is not None:
            (scratch / "chat_template.jinja").write_text(settings.chat_template, encoding="utf-8")


def _token_ids(tokenizer: "Tokenizer | None", settings: GenerationSettings) -> dict[str, Any]:
    """Give the ids that start, end and fill; null says that there is none, so that no default acts."""
    ends = settings.stop_token_ids
    if ends is None:
        end = None if tokenizer is None else tokenizer.end_of_text_id
        ends = () if end is None else (end,)

    def find(token: str | None) -> int | None:
        return None if tokenizer is None or token is None else tokenizer.token_to_id(token)

    return {
        "bos_token_id": find(settings.bos_token),
        "eos_token_id": ends[0] if len(ends) == 1 else list(ends) or None,
        "pad_token_id": find(settings.pad_token),
    }


def _generation(tokenizer: "Tokenizer | None", settings: GenerationSettings) -> dict[str, Any]:
    drawing = {
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
    }
    drawing = {name: value for name, value in drawing.items() if value is not None}
    if drawing:
        # Their greedy search is a switch of its own, and a temperature of 0 is refused.
        drawing = (
            {"do_sample": False} if settings.temperature == 0 else {"do_sample": True, **drawing}
        )
    ids = {
        name: value for name, value in _token_ids(tokenizer, settings).items() if value is not None
    }
    return {**ids, **drawing}


def _tokens(
    config: GPTConfig, tokenizer: "Tokenizer", settings: GenerationSettings
) -> dict[str, Any]:
    end = tokenizer.end_of_text_id
    names = {
        "bos_token": settings.bos_token,
        "eos_token": settings.eos_token or (None if end is None else tokenizer.id_to_token(end)),
        "pad_token": settings.pad_token,
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.context_length,
        "clean_up_tokenization_spaces": False,
        **{name: token for name, token in names.items() if token is not None},
    }


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
