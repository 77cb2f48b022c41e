"""Answers as they grow: tokens, their text, and what ended them."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_gpt.generation.decode import Chosen
from keras_gpt.generation.stopping import StopStrings
from keras_gpt.generation.truncation import NOTHING, Dropped

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer, with what is known about it.

    Args:
        token_ids: the new tokens, those of a stop string included, without a stop token.
        text: their text up to a stop string (after the prompt's where `echo` asks for it); None
            where ids were given.
        finish_reason: "stop" for a stop token, a stop string, or a constraint that lets nothing
            follow; "length" for the most new tokens; "constraint" where a constraint could not be
            followed to its end (see `ConstraintState`).
        logprobs: log P of each new token, as the model itself has it; None unless asked for.
        top_logprobs: for each new token the most probable ones; None unless asked for.
        score: what beam search ranks the answer by (see `BeamOptions`); None without beams.
        dropped_prompt_tokens: how many tokens `truncate` cut out of a prompt that was too long.
        dropped_prompt_start: the place in the whole prompt of the first of them.
    """

    token_ids: list[int]
    text: str | None
    finish_reason: str
    logprobs: list[float] | None
    top_logprobs: list[dict[int, float]] | None
    score: float | None = None
    dropped_prompt_tokens: int = 0
    dropped_prompt_start: int = 0


class GrowingAnswer:
    """An answer that takes one token after the other.

    Args:
        prompt: the ids of the prompt.
        tokenizer: turns tokens into text; None where ids are wanted.
        stop: strings that end the answer.
        dropped: what was cut out of the prompt.

    Attributes:
        token_ids: the new tokens so far.
        has_stopped: whether a stop token, a stop string or a constraint ended it.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        tokenizer: "Tokenizer | None",
        stop: Sequence[str],
        dropped: Dropped = NOTHING,
    ) -> None:
        self.token_ids: list[int] = []
        self.has_stopped = False
        self._dropped = dropped
        self._end = "stop"  # where it has stopped
        self._pieces: list[str] = []  # of the text that is sure to belong to the answer
        self._logprobs: list[float] = []
        self._top: list[dict[int, float]] = []
        self._decoder = None
        if tokenizer is not None:
            self._special = set(tokenizer.special_tokens.values())
            self._decoder = tokenizer.stream_decoder()
            # What a piece begins with may depend on what it follows (GPT-1's spaces between words).
            for token in prompt:
                if token not in self._special:
                    self._decoder.push(token)
        self._stop = StopStrings(stop)

    def copy(self) -> "GrowingAnswer":
        """Give another one that is as far as this one and grows on its own."""
        twin = copy.copy(self)
        twin.token_ids, twin._pieces = [*self.token_ids], [*self._pieces]
        twin._logprobs, twin._top = [*self._logprobs], [*self._top]
        twin._stop = copy.copy(self._stop)
        twin._decoder = None if self._decoder is None else self._decoder.copy()
        return twin

    def push(self, chosen: Chosen) -> str:
        """Take a token, and give the text that is sure to belong to the answer."""
        if chosen.is_stop:
            self.has_stopped = True
            return ""
        self.token_ids.append(chosen.token)
        if chosen.end is not None:
            self.has_stopped, self._end = True, chosen.end
        if chosen.logprob is not None and chosen.top_logprobs is not None:
            self._logprobs.append(chosen.logprob)
            self._top.append(chosen.top_logprobs)
        if self._decoder is None or chosen.token in self._special:
            return ""
        piece = self._stop.push(self._decoder.push(chosen.token))
        self._pieces.append(piece)
        if self._stop.found:
            self.has_stopped, self._end = True, "stop"
        return piece

    def finish(self) -> str:
        """Give the text that was held back: no more tokens come."""
        if self._decoder is None or self._stop.found:
            return ""
        piece = self._stop.push(self._decoder.finish()) + self._stop.finish()
        self._pieces.append(piece)
        return piece

    def answer(self, before: str, with_logprobs: bool, score: float | None = None) -> Answer:
        """Give what there is, the text with `before` in front of it."""
        return Answer(
            token_ids=self.token_ids,
            text=None if self._decoder is None else before + "".join(self._pieces),
            finish_reason=self._end if self.has_stopped else "length",
            logprobs=self._logprobs if with_logprobs else None,
            top_logprobs=self._top if with_logprobs else None,
            score=score,
            dropped_prompt_tokens=self._dropped.tokens,
            dropped_prompt_start=self._dropped.start,
        )
