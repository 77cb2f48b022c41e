"""Cutting sequences that are longer than the context into windows that overlap."""

from keras_gpt.generation.packing import Request


def check_stride(stride: object, name: str, window: int) -> None:
    """Refuse a number of tokens that windows of `window` tokens, called `name`, cannot move by."""
    if isinstance(stride, bool) or not isinstance(stride, int) or not 1 <= stride <= window:
        raise ValueError(
            f"stride must be an integer from 1 to {name}={window}. Received: stride={stride!r}"
        )


def windows(ids: list[int], window: int, stride: int, scored: int = 1) -> list[Request]:
    """Cut ids into requests of at most `window` inputs that together score ids[scored:] once.

    Args:
        ids: the first ones are only given.
        window: inputs of a request.
        stride: tokens that every request but the first and the last scores.
        scored: how many ids are only given, at least one.

    Example:
        >>> [(len(given), wanted) for given, wanted in windows([0, 1, 2, 3, 4, 5], 3, 2)]
        [(1, [1, 2, 3]), (2, [4, 5])]
    """
    requests = list[Request]()
    while scored < len(ids):
        # The last of the scored tokens is no input, so a window has room for one more.
        is_first = not requests and scored <= window
        end = min(len(ids), window + 1 if is_first else scored + stride)
        begin = max(0, end - 1 - window)
        requests.append(Request(ids[begin:scored], ids[scored:end]))
        scored = end
    return requests
