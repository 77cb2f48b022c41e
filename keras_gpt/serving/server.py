"""Runs the application on a port of this machine."""

import contextlib
import os

try:
    import uvicorn
except ImportError as error:
    raise ImportError(
        "serving needs fastapi and uvicorn: pip install 'keras-gpt[serve]'"
    ) from error

from keras_gpt.serving.addresses import address_of, listen
from keras_gpt.serving.app import DEFAULT_MAX_REQUEST_BYTES, create_app
from keras_gpt.serving.sample_request import curl_line


def serve(
    folder: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 8501,
    max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
) -> None:
    """Serve the models of a folder over TensorFlow Serving's REST API until interrupted.

    Args:
        folder: holds NAME/VERSION/saved_model.pb. The latest version of each model is served.
        host: the address to listen on. The default is reachable from this machine only. There is
            no authentication: whoever reaches the address can use the models.
        port: the port; 0 takes a free one.
        max_request_bytes: a request body beyond this many bytes gets status 413.

    Raises:
        ImportError: FastAPI or uvicorn is missing.
        FileNotFoundError: there is no such folder, or no model is in it.
        RuntimeError: there are models, and none can be loaded.
        OSError: the port is in use, or the address is not one of this machine.
        ValueError: `port` is not in 0 to 65535, or `max_request_bytes` is not positive.

    Example:
        >>> serve("saved_models")  # Ctrl-C ends it
    """
    # The port is taken first: loading may be long, and would be in vain if it is in use.
    with listen(host, port) as listener:
        app = create_app(folder, max_request_bytes)
        address = address_of(listener, host)
        servables = app.state.store.servables()
        print(f"Serving {len(servables)} model(s) of {folder} at {address}; Ctrl-C ends it.")
        for servable in servables:
            print(f"  {address}/v1/models/{servable.name}  (version {servable.version})")
        print(f"Try:\n  {curl_line(servables[0], address)}", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how one ends a server
            server.run(sockets=[listener])
