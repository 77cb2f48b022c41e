"""`keras-gpt export`: a model as a SavedModel."""

from typing import Annotated

import typer

from keras_gpt.cli.common import load_model, say


def export(
    model: Annotated[
        str, typer.Argument(help="Any MODEL: a folder, a .keras or .gguf file, a name.")
    ],
    path: Annotated[str, typer.Argument(help="Folder of one version: saved_models/NAME/1.")],
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Write a model as a SavedModel for TensorFlow Serving: strings in, strings out."""
    load_model(model).export(path, overwrite=overwrite)
    say(f"exported {model} to {path}")
