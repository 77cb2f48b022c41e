"""One answer of several as clients see it: its text and the tokens that belong to it."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from keras_gpt.generation import Answer
from keras_gpt.generation.decode import Chosen

# What this API has a word for; all else cuts an answer off before its end.
_REASONS = {"stop": "stop"}
_NO_PROBABILITY = -9999.0  # JSON has no -infinity


class Token(NamedTuple):
    """A token of an answer."""

    id: int
    offset: int  # in the answer's text
    logprob: float
    top: dict[int, float]


class Delta(NamedTuple):
    """What is added to an answer."""

    text: str
    tokens: list[Token]


class Choice:
    """An answer that grows.

    A token is given together with the text that it begins in. Those of a stop string are not
    given, as it is left out of the text too.

    Args:
        tokenizer: the model's.
        prompt: the ids that the answer follows.

    Attributes:
        text: what there is of it.
        tokens: those that it consists of; none unless log-probabilities were asked for.
        num_tokens: how many the model has written.
        finish_reason: as OpenAI's API has it; None before the end.
    """

    def __init__(self, tokenizer: Any, prompt: Iterable[int]) -> None:
        self._special = set(tokenizer.special_tokens.values())
        self._decoder = tokenizer.stream_decoder()
        for token in prompt:
            if token not in self._special:
                self._decoder.push(token)
        self._written = 0  # characters, those of a stop string included
        self._held: list[Token] = []
        self.text = ""
        self.tokens: list[Token] = []
        self.num_tokens = 0
        self.finish_reason: str | None = None

    def push(self, text: str, chosen: Chosen) -> Delta:
        """Take a token, and the text that it has made sure of."""
        if chosen.is_stop:
            return Delta("", [])
        self.num_tokens += 1
        if chosen.logprob is not None and chosen.top_logprobs is not None:
            self._held.append(
                Token(chosen.token, self._written, chosen.logprob, chosen.top_logprobs)
            )
            if chosen.token not in self._special:
                self._written += len(self._decoder.push(chosen.token))
        self.text += text
        return self._given(text, sum(token.offset < len(self.text) for token in self._held))

    def end(self, rest: str, answer: Answer) -> Delta:
        """Take the end of the text, and the whole answer."""
        self.text += rest
        self.finish_reason = _REASONS.get(answer.finish_reason, "length")
        is_cut = self._written + len(self._decoder.finish()) > len(self.text)
        inside = [token for token in self._held if not is_cut or token.offset < len(self.text)]
        return self._given(rest, len(inside))

    def _given(self, text: str, count: int) -> Delta:
        tokens, self._held = self._held[:count], self._held[count:]
        self.tokens += tokens
        return Delta(text, tokens)


def finite(logprob: float) -> float:
    """Give a log-probability as JSON can have it."""
    return max(logprob, _NO_PROBABILITY)


def token_text(tokenizer: Any, token: int) -> str | None:
    """Give a token's text; None where its bytes alone are no text."""
    if token in tokenizer.special_tokens.values():
        return str(tokenizer.id_to_token(token))
    try:
        return str(tokenizer.token_bytes(token).decode())
    except UnicodeDecodeError:
        return None


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """Give a token's bytes; those of a special token spell its name."""
    text = token_text(tokenizer, token)
    return bytes(tokenizer.token_bytes(token)) if text is None else text.encode()
