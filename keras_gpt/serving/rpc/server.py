"""A gRPC server on a port of this machine."""

import logging
from typing import Any

try:
    import grpc
except ImportError as error:
    raise ImportError("serving needs grpcio: pip install 'keras-gpt[serve]'") from error

from keras_gpt.serving.rpc.service import Services

# What gRPC's event loop reports to.
_GRPC_LOG = "grpc._cython.cygrpc"


def grpc_server(
    services: Services, host: str, port: int, max_request_bytes: int
) -> tuple[Any, int]:
    """Make a server that listens. Inside a running event loop, `await server.start()` starts it.

    Args:
        services: answer the requests.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        max_request_bytes: a longer request gets the status RESOURCE_EXHAUSTED.

    Returns:
        The server and its port.

    Raises:
        OSError: the port is in use, or the address is not one of this machine.
    """
    logging.getLogger(_GRPC_LOG).addFilter(_is_of_the_server)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_request_bytes),
            ("grpc.max_send_message_length", -1),
            # Else two servers could share the port, and each would get some of the requests.
            ("grpc.so_reuseport", 0),
        ]
    )
    server.add_generic_rpc_handlers(services.handlers())
    shown = f"[{host}]" if ":" in host else host
    try:
        bound = server.add_insecure_port(f"{shown}:{port}")
    except RuntimeError as error:
        raise OSError(
            "cannot listen there for gRPC; end the other server, or choose another grpc_port or "
            f"host. Received: host={host!r}, grpc_port={port}"
        ) from error
    return server, bound


def _is_of_the_server(record: logging.LogRecord) -> bool:
    """Leave out that a client went before it had its answer, an error with a traceback for gRPC."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "ExecuteBatchError"
