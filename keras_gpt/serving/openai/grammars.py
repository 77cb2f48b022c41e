"""From a client's JSON schema to a constraint, at a cost that is bounded whatever the schema."""

import asyncio
import contextlib
import json
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

from keras_gpt.generation import Constraint, constraints
from keras_gpt.serving.openai.errors import ApiError

_MOST_CHARACTERS = 100_000  # of a schema
_SECONDS = 2  # of work; what people write takes milliseconds
_MEGABYTES = 256
_WALL_SECONDS = 60  # the machine may have other work
_AT_ONCE = 2
_KEPT = 64

_PROGRAM = Path(__file__).with_name("grammar_process.py")


class Grammars:
    """Makes constraints in processes that can be stopped, and keeps the last ones.

    Example:
        >>> constraint = await Grammars().constraint({"type": "object"})
    """

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._kept: OrderedDict[str, Constraint] = OrderedDict()

    async def constraint(self, schema: dict[str, Any]) -> Constraint:
        """Give the constraint that follows a schema.

        Raises:
            ApiError: the schema cannot be followed, or only with too much work.
        """
        text = json.dumps(schema)
        if len(text) > _MOST_CHARACTERS:
            raise _refused(
                f"a schema may have {_MOST_CHARACTERS} characters. Received: {len(text)}"
            )
        if text in self._kept:
            self._kept.move_to_end(text)
            return self._kept[text]
        async with self._turns:
            written = await _run(text.encode())
        if written is None:
            raise _refused("the schema has a grammar that is too large to follow: make it simpler")
        answer = json.loads(written)
        if "error" in answer:
            raise _refused(answer["error"])
        self._kept[text] = Constraint(answer["grammar"])
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[text]


async def _run(schema: bytes) -> bytes | None:
    """Give what the program writes, or None where it was stopped."""
    limits = map(str, (_SECONDS, _MEGABYTES))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", str(_PROGRAM), str(constraints.__file__), *limits,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        written, _ = await asyncio.wait_for(process.communicate(schema), _WALL_SECONDS)
    except TimeoutError:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # also where nobody waits for it any more
        await process.wait()
    return written if process.returncode == 0 else None


def _refused(message: str) -> ApiError:
    return ApiError(400, message, param="response_format", code="invalid_response_format")
