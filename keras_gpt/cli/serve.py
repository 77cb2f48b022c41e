"""`keras-gpt serve`: TensorFlow Serving's REST and gRPC APIs, or OpenAI's, from one process."""

from pathlib import Path
from typing import Annotated

import typer

from keras_gpt.cli.common import Quantize, load_gpt, load_model, require_use, say


def serve(
    folder: Annotated[
        str | None,
        typer.Argument(
            help="Holds NAME/VERSION/saved_model.pb; or the name of a model from `models list`, "
            "which is exported first."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="In place of FOLDER: any MODEL, answered for with OpenAI's API."),
    ] = None,
    quantize: Quantize = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; by default 8501, and 8000 with --model."),
    ] = None,
    grpc_port: Annotated[
        int, typer.Option(help="With FOLDER: port to listen on for gRPC; 0 takes a free one.")
    ] = 8500,
    config: Annotated[
        Path | None,
        typer.Option(
            help="With FOLDER: a models.config in TensorFlow Serving's form, which says what is "
            "served in place of all that is there."
        ),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(help="With --model: how many answers are written at a time.")
    ] = 8,
    max_waiting: Annotated[
        int, typer.Option(help="With --model: how many requests wait; more get status 429.")
    ] = 256,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="With --model: the most tokens of prompt and answer; by default the context, at "
            "most 2048. Less takes less memory and is compiled sooner."
        ),
    ] = None,
    warmup: Annotated[
        bool,
        typer.Option(help="Compile everything before the first request; else some wait."),
    ] = True,
    max_request_bytes: Annotated[
        int, typer.Option(help="With --model: a longer request gets status 413.")
    ] = 4 * 2**20,
    deadline: Annotated[
        float | None,
        typer.Option(help="With --model: seconds after which an answer ends with what there is."),
    ] = None,
    client_timeout: Annotated[
        float,
        typer.Option(
            help="With --model: seconds a client may take to send a request, or to read on in what "
            "it is sent, before its connection is closed."
        ),
    ] = 30.0,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            help='With --model: JSON lines {"key": ..., "name": ...} of those who may use it, with '
            '"requests_per_minute" and "tokens_per_minute" where there are limits.'
        ),
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(help="Seconds to wait for answers after SIGTERM.")
    ] = 30.0,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="With --model: write what was asked to the log.")
    ] = False,
) -> None:
    """Serve a folder of SavedModels (TensorFlow Serving's APIs), or a --model (OpenAI's API)."""
    if (folder is None) == (model is None):
        raise ValueError(
            "give a FOLDER of SavedModels, or --model MODEL for OpenAI's API; both have "
            "/v1/models, so each needs a process of its own. Received: "
            f"FOLDER={folder}, --model={model}"
        )
    if quantize is not None and model is None:
        raise ValueError(
            "--quantize belongs to --model: a SavedModel is quantized before it is exported. "
            f"Received: --quantize {quantize} with FOLDER={folder}"
        )
    require_use("--model", model, {"--api-keys": api_keys})
    require_use("a FOLDER of SavedModels", folder, {"--config": config})
    if model is not None:
        from keras_gpt.serving import openai

        limits = openai.Limits(
            max_batch=max_batch,
            max_waiting=max_waiting,
            max_length=max_length,
            warmup=warmup,
            max_request_bytes=max_request_bytes,
            deadline=deadline,
            client_timeout=client_timeout,
        )
        openai.serve(
            lambda: load_gpt(model, quantize),
            _model_name(model),
            host,
            8000 if port is None else port,
            limits=limits,
            api_keys=api_keys,
            drain_seconds=drain_seconds,
            log_prompts=log_prompts,
        )
        return
    assert folder is not None
    from keras_gpt.checkpoints.catalogue import MODELS
    from keras_gpt.serving import serve as serve_folder

    if folder in MODELS and not Path(folder).exists():
        folder = _exported(folder)
    serve_folder(
        folder,
        host=host,
        port=8501 if port is None else port,
        grpc_port=grpc_port,
        config=config,
        drain_seconds=drain_seconds,
        warmup=warmup,
    )


def _model_name(source: str) -> str:
    """Give what clients call a model: no place of this machine."""
    if "://" in source:
        return source.partition("://")[2].partition("@")[0]
    path = Path(source).absolute()
    return path.stem if path.suffix in (".keras", ".gguf") else path.name


def _exported(name: str) -> str:
    """Export a model of the catalogue beside its weights, once; give the folder to serve."""
    from keras_gpt.checkpoints.catalogue import pulled_folder

    served = pulled_folder(name) / "saved_models"
    version = served / name / "1"
    if not (version / "saved_model.pb").is_file():
        say(f"exporting {name} to {version}")
        load_model(name).export(version)
    return str(served)
