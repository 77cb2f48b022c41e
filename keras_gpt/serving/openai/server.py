"""Runs the application on a port of this machine, and ends it without losing an answer."""

import functools
import logging
import os
import sys
from typing import Any

try:
    from fastapi import FastAPI
except ImportError as error:
    raise ImportError(
        "serving needs fastapi and uvicorn: pip install 'keras-gpt[serve]'"
    ) from error

from keras_gpt.serving.addresses import address_of, listen
from keras_gpt.serving.draining import DrainingServer, exit_at_once
from keras_gpt.serving.openai.app import create_app
from keras_gpt.serving.openai.connections import Connection
from keras_gpt.serving.openai.keys import Keys
from keras_gpt.serving.openai.records import LogHandler
from keras_gpt.serving.openai.service import Limits, Service


def serve(
    load: Any,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    limits: Limits | None = None,
    api_keys: str | os.PathLike[str] | None = None,
    drain_seconds: float = 30.0,
    log_prompts: bool = False,
) -> None:
    """Serve a model with OpenAI's API until SIGTERM or Ctrl-C.

    Then answers that were begun are written to their end, new requests get status 503, and the
    function returns. A second signal ends it at once. The log goes to standard error.

    Args:
        load: gives the `GPT`; called when the port is sure to be free.
        name: what clients call it.
        host: the address to listen on. The default is reachable from this machine only.
        port: the port; 0 takes a free one.
        limits: how much it takes on; None is the usual.
        api_keys: a file of those who may use it, see `Keys.from_file`; None lets everybody.
        drain_seconds: how long it waits for answers after the signal.
        log_prompts: whether the log has what clients asked.

    Raises:
        ImportError: FastAPI or uvicorn is missing.
        FileNotFoundError: there is no file of keys.
        OSError: the port is in use, or the address is not one of this machine.
        ValueError: an argument is out of range, or the model has no tokenizer.

    Example:
        >>> serve(lambda: GPT.from_preset("my-gpt/"), "my-gpt")
    """
    # Compiling for many shapes is meant here; TensorFlow warns of it between the lines of the log.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with listen(host, port) as listener:
        keys = None if api_keys is None else Keys.from_file(api_keys)
        app = create_app(
            load(), name, limits=limits, keys=keys, log=sys.stderr, log_prompts=log_prompts
        )
        service: Service = app.state.service
        address = address_of(listener, host)
        print(
            f"Serving {name} at {address}/v1 (OpenAI's API); Ctrl-C ends it.\n"
            f"Prompt and answer may have {service.max_length} tokens together. It answers when "
            f"{address}/health/ready does.",
            flush=True,
        )
        handler = LogHandler(app.state.log)
        logging.getLogger().addHandler(handler)
        try:
            draining_server(app, drain_seconds).run(sockets=[listener])
        finally:
            logging.getLogger().removeHandler(handler)
    if service.is_compiling:  # nobody was answered yet; XLA goes on for minutes, and cannot be told
        exit_at_once(0)


def draining_server(app: FastAPI, seconds: float) -> DrainingServer:
    """Make the server of an application of `create_app`.

    Args:
        app: its service is told when the end has come.
        seconds: how long to wait for answers then; what has not ended gets status 503.
    """
    service: Service = app.state.service

    def refuse() -> None:
        service.is_draining = True

    return DrainingServer(
        app,
        refuse,
        lambda: service.in_flight,
        seconds,
        service.close,
        http=functools.partial(Connection, seconds=service.limits.client_timeout),
        ws="none",
        log_config=None,
    )
