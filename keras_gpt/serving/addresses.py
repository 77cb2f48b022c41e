"""A port of this machine to listen on, and how its address is written."""

import os
import socket


def listen(host: str, port: int, name: str = "port") -> socket.socket:
    """Give a socket that listens; connections wait in it until a server takes them.

    Args:
        host: the address to listen on.
        port: the port; 0 takes a free one.
        name: what the messages call the port.

    Raises:
        OSError: the port is in use, or the address is not one of this machine.
        ValueError: the port is not in 0 to 65535.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"{name} must be in 0 to 65535. Received: {name}={port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise OSError(f"host is not an address ({error}). Received: host={host!r}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # on Windows this would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise OSError(
            error.errno,
            f"cannot listen there ({error.strerror}); end the other server, or choose another "
            f"{name} or host. Received: host={host!r}, {name}={port}",
        ) from error
    return listener


def address_of(listener: socket.socket, host: str) -> str:
    """Give the URL that a listening socket is reached at."""
    shown_host = f"[{host}]" if ":" in host else host
    return f"http://{shown_host}:{listener.getsockname()[1]}"
