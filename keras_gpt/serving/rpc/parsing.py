"""Messages from the bytes of a request."""

from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from keras_gpt.serving.errors import ServingError

Parsed = TypeVar("Parsed", bound=Any)


def parse(kind: type[Parsed], data: bytes) -> Parsed:
    """Read a message.

    Args:
        kind: the message's class.
        data: its binary form.

    Returns:
        The message.

    Raises:
        ServingError: the bytes are no such message.
    """
    try:
        return kind.FromString(data)
    except (DecodeError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise ServingError(f"The request is not a {kind.DESCRIPTOR.full_name}") from error
