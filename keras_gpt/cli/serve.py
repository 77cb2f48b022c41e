"""`keras-gpt serve`: TensorFlow Serving's REST API from one process."""

from pathlib import Path
from typing import Annotated

import typer

from keras_gpt.cli.common import load_model, say


def serve(
    folder: Annotated[
        str,
        typer.Argument(
            help="Holds NAME/VERSION/saved_model.pb; or the name of a model from `models list`, "
            "which is exported first."
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8501,
) -> None:
    """Serve every model of a folder with TensorFlow Serving's REST API."""
    from keras_gpt.checkpoints.catalogue import MODELS
    from keras_gpt.serving import serve as serve_folder

    if folder in MODELS and not Path(folder).exists():
        folder = _exported(folder)
    serve_folder(folder, host=host, port=port)


def _exported(name: str) -> str:
    """Export a model of the catalogue beside its weights, once; give the folder to serve."""
    from keras_gpt.checkpoints.catalogue import pulled_folder

    served = pulled_folder(name) / "saved_models"
    version = served / name / "1"
    if not (version / "saved_model.pb").is_file():
        say(f"exporting {name} to {version}")
        load_model(name).export(version)
    return str(served)
