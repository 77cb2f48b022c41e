"""`keras-gpt convert`: a model from one format to another."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from keras_gpt.cli.common import Quantize, load_gpt_or_ids, say
from keras_gpt.files import require_free, require_free_file


class Format(enum.StrEnum):
    """What to write."""

    HF = "hf"
    GGUF = "gguf"
    KERAS_GPT = "keras-gpt"
    KERAS_HUB = "keras-hub"
    ONNX = "onnx"


def convert(
    model: Annotated[
        str, typer.Argument(help="Any MODEL: a folder, a .gguf file, hf://owner/name.")
    ],
    destination: Annotated[
        str, typer.Argument(help="The folder, or the .gguf or .onnx file, to write.")
    ],
    to: Annotated[Format, typer.Option(help="Format to write.")],
    dtype: Annotated[
        str | None,
        typer.Option(help="gguf only: f32 (exact), f16 (the default) or q8_0, of the matrices."),
    ] = None,
    quantize: Quantize = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Write a model in another library's format: weights, tokenizer and generation settings.

    KerasHub has no place for the settings: --to keras-hub names those that it leaves out. ONNX is the
    forward pass alone, token_ids to logits (extra `onnx`).
    """
    if dtype is not None and to is not Format.GGUF:
        raise ValueError(f"--dtype belongs to --to gguf. Received: --dtype {dtype} --to {to}")
    if quantize is not None and to is not Format.KERAS_GPT:
        raise ValueError(
            "--quantize belongs to --to keras-gpt: the other formats get plain weights (--to gguf "
            f"--dtype q8_0 has integers of its own). Received: --quantize {quantize} --to {to}"
        )
    _require_place(Path(destination), to, overwrite)
    gpt = load_gpt_or_ids(model, quantize)
    if to is Format.GGUF:
        gpt.save_to_gguf(destination, dtype=dtype or "f16", overwrite=overwrite)
    elif to is Format.ONNX:
        gpt.export(destination, format="onnx", overwrite=overwrite)
    else:
        save = {
            Format.HF: gpt.save_to_huggingface,
            Format.KERAS_GPT: gpt.save_to_preset,
            Format.KERAS_HUB: gpt.save_to_keras_hub,
        }[to]
        save(destination, overwrite=overwrite)
    path = Path(destination)
    for file in [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file()):
        say(f"{file.stat().st_size:>14,} bytes  {file}")


def _require_place(path: Path, to: Format, overwrite: bool) -> None:
    """Refuse a taken place before the model is read, which takes a while."""
    if to not in (Format.GGUF, Format.ONNX):
        require_free(path, overwrite)
    else:
        require_free_file(path, overwrite)
