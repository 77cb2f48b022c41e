"""The files of vocabulary and merges: encoder.json and vocab.bpe, vocab.json and merges.txt."""

import json
import os
from pathlib import Path
from typing import Any


def read_vocabulary(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read encoder.json or vocab.json: one JSON object, token -> id.

    Args:
        path: the file.

    Returns:
        The vocabulary.

    Raises:
        ValueError: the file is not such JSON.
        OSError: it cannot be read.
    """
    return parse_json(read_text(path), str(path))


def read_merges(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Read vocab.bpe or merges.txt: two tokens a line, with or without a `#version` line.

    Args:
        path: the file.

    Returns:
        The merges, first merge first.

    Raises:
        ValueError: a line does not hold two tokens.
        OSError: the file cannot be read.
    """
    # Not splitlines(): a token may hold U+0085, which that takes for the end of a line.
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    if lines[0].startswith("#version"):
        lines[0] = ""
    merges = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise ValueError(
                f"each line of a merges file must hold two tokens with one space between. "
                f"Received: line {number} of {path}: {line!r:.80}"
            )
        merges.append((pair[0], pair[1]))
    return merges


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 file.

    Args:
        path: the file.

    Returns:
        Its text, with its line ends.

    Raises:
        ValueError: the file is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"a tokenizer's file must be UTF-8 text; {error.reason} at byte {error.start}. "
            f"Received: file={os.fspath(path)!r}"
        ) from error


def parse_json(text: str, source: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        text: the JSON text.
        source: what to call it in messages.

    Returns:
        The object.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} must be JSON, and it is not: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{source} must be a JSON object. Received: {type(state).__name__}")
    return state
