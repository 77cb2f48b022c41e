"""Runs the REST and the gRPC server on ports of this machine, and ends them without losing an answer."""

import asyncio
import contextlib
import logging
import os
import socket
from typing import Any

from keras_gpt.memory import keep_memory_together
from keras_gpt.serving.addresses import address_of, listen
from keras_gpt.serving.admission import DEFAULT_MAX_WAITING, Admission
from keras_gpt.serving.app import DEFAULT_MAX_REQUEST_BYTES, DEFAULT_POLL_SECONDS, create_app
from keras_gpt.serving.draining import LAST_SECONDS, DrainingServer, exit_at_once
from keras_gpt.serving.rpc.server import grpc_server
from keras_gpt.serving.rpc.service import Services
from keras_gpt.serving.sample_request import curl_line

_log = logging.getLogger("keras_gpt.serving")


def serve(
    folder: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 8501,
    max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
    *,
    grpc_port: int = 8500,
    config: str | os.PathLike[str] | None = None,
    max_waiting: int = DEFAULT_MAX_WAITING,
    poll_seconds: float = DEFAULT_POLL_SECONDS,
    drain_seconds: float = 30.0,
    warmup: bool = True,
) -> None:
    """Serve models over TensorFlow Serving's REST and gRPC APIs until SIGTERM or Ctrl-C.

    Then requests that were begun are answered, new ones get status 503 (UNAVAILABLE), and the
    function returns. A second signal ends it at once.

    There is no authentication: whoever reaches the address can use the models and, within the
    folder, choose which are served (HandleReloadConfigRequest).

    Args:
        folder: holds NAME/VERSION/saved_model.pb. The latest version of each model is served, and
            replaced when a later one appears.
        host: the address to listen on. The default is reachable from this machine only.
        port: the port for REST; 0 takes a free one.
        max_request_bytes: a longer request gets status 413 (RESOURCE_EXHAUSTED).
        grpc_port: the port for gRPC; 0 takes a free one.
        config: a file in TensorFlow Serving's form (`models.config`) that says which models and
            versions are served, in place of all that is in the folder.
        max_waiting: how many requests wait for a thread; more get status 429 (RESOURCE_EXHAUSTED).
        poll_seconds: from one look at the folders to the next; 0 looks once.
        drain_seconds: how long it waits for answers after the signal. A process with requests
            that take longer ends with exit code 1.
        warmup: whether a version answers the warm-up requests that lie in its folder before it is
            served; else some of the first requests wait for compilation.

    Raises:
        ImportError: a package of the extra `serve` is missing.
        FileNotFoundError: there is no such folder or file, or no model is in it.
        RuntimeError: there are models, and none can be loaded.
        OSError: a port is in use, or the address is not one of this machine.
        ValueError: an argument is out of range, or `config` is no configuration.

    Example:
        >>> serve("saved_models")
    """
    keep_memory_together()  # versions come and go
    # The ports are tried first: loading may be long, and would be in vain if one is in use.
    with listen(host, port) as listener:
        listen(host, grpc_port, "grpc_port").close()
        app = create_app(
            folder,
            max_request_bytes,
            config=config,
            max_waiting=max_waiting,
            poll_seconds=poll_seconds,
            warmup=warmup,
        )
        server = Server(app, host, max_request_bytes, drain_seconds)
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how one ends a server
            asyncio.run(server.run(listener, grpc_port, lambda: _announce(folder, server)))
    if server.admission.in_flight:
        _log.error("%d requests had not ended", server.admission.in_flight)
        exit_at_once(1)  # they may take hours


class Server:
    """An application and the gRPC services over the same models, on one event loop.

    Args:
        app: from `create_app`.
        host: the address to listen on.
        max_request_bytes: a longer gRPC request gets the status RESOURCE_EXHAUSTED.
        drain_seconds: how long requests may take after a signal.
    """

    def __init__(
        self, app: Any, host: str, max_request_bytes: int, drain_seconds: float = 30.0
    ) -> None:
        self.app = app
        self.admission: Admission = app.state.admission
        self.address = ""
        self.grpc_address = ""
        self._host = host
        self._max_request_bytes = max_request_bytes
        self.rest = DrainingServer(
            app, self._refuse, lambda: self.admission.in_flight, drain_seconds
        )

    async def run(self, listener: socket.socket, grpc_port: int, started: Any) -> None:
        """Serve until a signal comes.

        Args:
            listener: a listening socket for REST.
            grpc_port: the port for gRPC; 0 takes a free one.
            started: is called, without arguments, when both addresses are known.

        Raises:
            OSError: the gRPC port is in use.
        """
        state = self.app.state
        services = Services(state.store, state.admission, state.metrics)
        rpc, bound = grpc_server(services, self._host, grpc_port, self._max_request_bytes)
        await rpc.start()
        try:
            self.address = address_of(listener, self._host)
            self.grpc_address = (
                f"[{self._host}]:{bound}" if ":" in self._host else f"{self._host}:{bound}"
            )
            started()
            await self.rest.serve(sockets=[listener])
        finally:
            await rpc.stop(LAST_SECONDS)

    def _refuse(self) -> None:
        self.admission.is_draining = True


def _announce(folder: str | os.PathLike[str], server: Server) -> None:
    servables = server.app.state.store.servables()
    print(
        f"Serving {len(servables)} model(s) of {folder} at {server.address} (REST) and "
        f"{server.grpc_address} (gRPC); Ctrl-C ends it."
    )
    for servable in servables:
        print(f"  {server.address}/v1/models/{servable.name}  (version {servable.version})")
    print(f"Try:\n  {curl_line(servables[0], server.address)}", flush=True)
