"""`keras-gpt export`: a model as a SavedModel."""

import enum
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_gpt.cli.common import load_model, say
from keras_gpt.files import require_free


class Quantization(enum.StrEnum):
    """What weights become."""

    INT8 = "int8"
    INT4 = "int4"


def export(
    model: Annotated[
        str, typer.Argument(help="Any MODEL: a folder, a .keras or .gguf file, a name.")
    ],
    path: Annotated[str, typer.Argument(help="Folder of one version: saved_models/NAME/1.")],
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most rows of a request, or of those that the server puts together. Makes the "
            "server compile for every shape when it loads the model; by default the first requests "
            "compile.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most tokens of an answer, and what a request that does not say gets (no more "
            "than half the context). By default whatever fits the context, and 64.",
        ),
    ] = None,
    quantize: Annotated[
        Quantization | None, typer.Option(help="Make the weights integers first.")
    ] = None,
    serving_files: Annotated[
        bool,
        typer.Option(
            help="Beside the models, write what starts TensorFlow Serving with them. What you "
            "changed there stays."
        ),
    ] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Write a model as a SavedModel for TensorFlow Serving: strings in, strings out."""
    from keras_gpt import GPT

    require_free(path, overwrite)
    loaded = load_model(model)
    settings: dict[str, Any] = {"max_batch": max_batch}
    if isinstance(loaded, GPT):
        settings["max_new_tokens"] = max_new_tokens
    elif max_new_tokens is not None:
        raise ValueError(
            f"--max-new-tokens is for models that generate. Received: {model}, a "
            f"{type(loaded).__name__}"
        )
    if quantize is not None:
        loaded.quantize(quantize.value)
    loaded.export(path, overwrite=overwrite, **settings)
    say(f"exported {model} to {path}")
    if serving_files:
        _write_serving_files(Path(path))


def _write_serving_files(path: Path) -> None:
    """Write them two folders above the version; nowhere unless that folder is named in the path."""
    from keras_gpt.export import write_serving_files

    named = path.relative_to(path.anchor).parts
    if len(named) < 3 or not path.name.isdecimal():
        say("no files for TensorFlow Serving are written: the path is not FOLDER/NAME/VERSION")
        return
    root = path.parent.parent
    files = write_serving_files(root)
    if files.written:
        say(f"for TensorFlow Serving: {', '.join(map(str, files.written))}")
    for kept in files.kept:
        missing = kept.name == "models.config" and json.dumps(path.parent.name) not in (
            kept.read_text("utf-8", errors="replace")
        )
        note = f"; it does not name {path.parent.name}" if missing else ""
        say(f"left as it is, since somebody changed it: {kept}{note}")
