"""`keras-gpt export`: a model as a SavedModel."""

from typing import Annotated, Any

import typer

from keras_gpt.cli.common import Quantize, load_model, say, write_serving_files_beside
from keras_gpt.files import require_free


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
    quantize: Quantize = None,
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
    loaded = load_model(model, quantize)
    settings: dict[str, Any] = {"max_batch": max_batch}
    if isinstance(loaded, GPT):
        settings["max_new_tokens"] = max_new_tokens
    elif max_new_tokens is not None:
        raise ValueError(
            f"--max-new-tokens is for models that generate. Received: {model}, a "
            f"{type(loaded).__name__}"
        )
    loaded.export(path, overwrite=overwrite, **settings)
    say(f"exported {model} to {path}")
    if serving_files:
        write_serving_files_beside(path)
