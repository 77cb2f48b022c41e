"""Who may use the API, and how much of it in a minute."""

import dataclasses
import hashlib
import hmac
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keras_gpt.serving.openai.errors import ApiError


class Allowance:
    """So much a minute: what was not taken comes back little by little, up to a minute's worth.

    Args:
        per_minute: how much.
        clock: gives seconds.

    Source: the token bucket of network traffic (RFC 2697 names one).
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    def take(self, amount: int) -> None:
        """Take some, also what is not there yet."""
        self._level = self._now() - amount

    def seconds_until(self, amount: int) -> float:
        """Give how long it takes until so much is there; infinity where it never is."""
        if amount > self.per_minute:
            return math.inf
        return max(0.0, amount - self._now()) * 60 / self.per_minute

    def headers(self, what: str) -> dict[str, str]:
        """Say what is left, in the headers of OpenAI's API."""
        return {
            f"x-ratelimit-limit-{what}": str(self.per_minute),
            f"x-ratelimit-remaining-{what}": str(max(0, int(self._now()))),
            f"x-ratelimit-reset-{what}": f"{self.seconds_until(self.per_minute):.3f}s",
        }

    def _now(self) -> float:
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return self._level


@dataclasses.dataclass(frozen=True)
class Key:
    """Somebody who may use the API.

    Args:
        name: for the log, and for taking turns.
        digest: of the key.
        requests: how many requests; None is any number.
        tokens: how many tokens, of prompts and answers; None is any number.
    """

    name: str
    digest: bytes
    requests: Allowance | None
    tokens: Allowance | None

    def headers(self) -> dict[str, str]:
        """Say what is left."""
        limits = {"requests": self.requests, "tokens": self.tokens}
        return {
            name: value
            for what, limit in limits.items()
            if limit is not None
            for name, value in limit.headers(what).items()
        }

    def take_request(self) -> None:
        """Count a request.

        Raises:
            ApiError: it is one too many.
        """
        _take(self.requests, 1, "requests")

    def take_prompt(self, count: int) -> None:
        """Count the tokens of a prompt. Those of the answer are counted when it has ended.

        Raises:
            ApiError: there are too many.
        """
        _take(self.tokens, count, "tokens")

    def take_answer(self, count: int) -> None:
        """Count the tokens of an answer, which the next requests may have to wait for."""
        if self.tokens is not None:
            self.tokens.take(count)


def _take(limit: Allowance | None, amount: int, what: str) -> None:
    if limit is None:
        return
    wait = limit.seconds_until(amount)
    if wait > 0:
        often = f"this key may use {limit.per_minute} {what} a minute"
        if math.isinf(wait):
            raise ApiError(429, f"{often}; this request has {amount}", code="rate_limit_exceeded")
        raise ApiError(
            429,
            f"{often}: try again in {wait:.1f} s",
            code="rate_limit_exceeded",
            headers={"retry-after": str(math.ceil(wait))},
        )
    limit.take(amount)


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    key: Annotated[str, Field(pattern=r"^[!-~]+$")]
    name: Annotated[str, Field(min_length=1)]
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None


class Keys:
    """All that may use the API.

    Args:
        keys: with names and digests that differ.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Keys":
        """Read keys from JSON lines.

        Args:
            path: each line has "key" and "name", and may have "requests_per_minute" and
                "tokens_per_minute".

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line is something else, or says what another has said; the message does
                not hold the key.

        Example:
            >>> Keys.from_file("keys.jsonl")  # {"key": "sk-...", "name": "ada"}
        """
        keys: list[Key] = []
        text = Path(path).read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            key = _key(line, number)
            if any(each.name == key.name or each.digest == key.digest for each in keys):
                raise ValueError(
                    f"API keys must differ, and their names too. Received: line {number} again "
                    "has what an earlier one has"
                )
            keys.append(key)
        if not keys:
            raise ValueError("the file of API keys must hold at least one. Received: none")
        return cls(keys)

    def find(self, authorization: str | None) -> Key:
        """Give whose key a request's header has.

        Raises:
            ApiError: there is none, or nobody's.
        """
        scheme, _, given = (authorization or "").partition(" ")
        digest = _digest(given.strip())
        # All are compared, each in constant time: how long it takes tells nothing.
        found = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        if scheme.lower() != "bearer" or not found:
            raise ApiError(
                401,
                "an API key is needed, as 'Authorization: Bearer KEY'"
                if not given
                else "this API key is not known",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return found[0]


def _key(line: str, number: int) -> Key:
    try:
        read = _Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            'a line of API keys must be {"key": ..., "name": ...}, with "requests_per_minute" and '
            f'"tokens_per_minute" where there are limits. Received: line {number}: {where} '
            f"{first['msg']}"
        ) from None  # pydantic's own has the line in it
    limits = [
        None if limit is None else Allowance(limit)
        for limit in (read.requests_per_minute, read.tokens_per_minute)
    ]
    return Key(read.name, _digest(read.key), *limits)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
