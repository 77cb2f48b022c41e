"""Reading JSON files that somebody else wrote."""

import json
from pathlib import Path
from typing import Any


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    content = read_json_value(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} must be a JSON object. Received: {type(content).__name__}")
    return content


def read_json_value(file: Path) -> Any:
    """Read JSON of any kind.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON.
    """
    if not file.is_file():
        raise FileNotFoundError(f"the folder must hold a {file.name}. Received: no file {file}")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON ({error})") from error
