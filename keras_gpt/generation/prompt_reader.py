"""Reading one prompt in pieces, from a beginning that was read before where there is one."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_gpt.generation.batch import ReadPrompts
from keras_gpt.generation.cache import grow_cache, shared_bucket
from keras_gpt.generation.packing import length_of_row
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import tensor
from keras_gpt.generation.steps import decode_steps
from keras_gpt.key_values import KeyValues

# Looking a beginning up and reading from there costs a program more than these few tokens do.
FEWEST_SHARED = 16
# What follows a shared beginning is often short.
FEWEST_READ = 32


class SharedBeginning(NamedTuple):
    """The past of the first `length` tokens of a prompt; what lies behind them does not count."""

    length: int
    past: Sequence[KeyValues]


class _Kept(NamedTuple):
    past: Sequence[KeyValues]
    size: int  # bytes


class Beginnings:
    """Prompts that were read, for others that begin as they do (a system prompt).

    Keys and values are never changed in place, so that all requests may share them.

    Args:
        most_bytes: how large all of them together may be; the longest unused goes first.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[int, ...], _Kept] = OrderedDict()

    def find(self, prompt: Sequence[int]) -> SharedBeginning | None:
        """Give the longest beginning of a prompt that was read; at least its last token is left."""
        best, best_length = None, FEWEST_SHARED - 1
        but_last = prompt[:-1]
        for ids in self._kept:
            length = _common(ids, but_last)
            if length > best_length:
                best, best_length = ids, length
        if best is None:
            return None
        self._kept.move_to_end(best)
        return SharedBeginning(best_length, self._kept[best].past)

    def keep(self, prompt: Sequence[int], past: Sequence[KeyValues]) -> None:
        """Keep what reading a prompt gave."""
        ids, size = tuple(prompt), _bytes(past)
        if len(ids) <= FEWEST_SHARED or size > self._most_bytes:
            return
        self._kept[ids] = _Kept(past, size)
        self._kept.move_to_end(ids)
        while sum(kept.size for kept in self._kept.values()) > self._most_bytes:
            self._kept.popitem(last=False)


class PromptReader:
    """Reads one prompt, a chunk at a time, so that a long one does not keep others waiting.

    Args:
        model: reads.
        prompt: its ids.
        chunk: the most tokens of one piece.
        beginnings: what was read before; this prompt is kept there too.
    """

    def __init__(
        self, model: Decoder, prompt: Sequence[int], chunk: int, beginnings: Beginnings
    ) -> None:
        self._steps = decode_steps(model)
        self._context = model.config.context_length
        self._prompt = list(prompt)
        self._beginnings = beginnings
        # What sees all of a prompt at once can be read in no other way.
        self._is_whole = model.config.bidirectional_prefix
        self._chunk = self._context if self._is_whole else chunk
        self._done = 0
        self._past: Sequence[KeyValues] = []
        shared = None if self._is_whole else beginnings.find(prompt)
        if shared is not None:
            self._done, self._past = shared

    def advance(self) -> ReadPrompts | None:
        """Read one more chunk; give what there is when it was the last."""
        logits = self._read_behind() if self._done else self._read_first()
        if self._done < len(self._prompt):
            return None
        if not self._is_whole:
            # Whole: where another prompt goes on from its middle, windows look behind that.
            self._beginnings.keep(self._prompt, self._past)
        past = self._steps.keep_windows(self._past, tensor([self._done], "int32"))
        return ReadPrompts(logits, past)

    def _read_first(self) -> Any:
        # The odd piece first: all that follow are whole chunks.
        count = (len(self._prompt) - 1) % self._chunk + 1
        token_ids = self._padded(count, first_widths(self._chunk))
        logits, past = self._steps.first_whole(token_ids, tensor([count], "int32"))
        self._done = count
        self._past = _with_room(past, shared_bucket(count, self._context))
        return logits

    def _read_behind(self) -> Any:
        count = min(self._chunk, len(self._prompt) - self._done)
        # Of a beginning that was kept with a longer prompt, a part may be enough.
        past = _with_room(self._past, shared_bucket(self._done + count, self._context))
        logits, self._past = self._steps.extend(
            self._padded(count, next_widths(self._chunk)),
            tensor([count], "int32"),
            tensor([self._done], "int32"),
            past,
        )
        self._done += count
        return logits

    def _padded(self, count: int, widths: Sequence[int]) -> Any:
        token_ids = np.zeros((1, next(width for width in widths if width >= count)), "int32")
        token_ids[0, :count] = self._prompt[self._done : self._done + count]
        return tensor(token_ids, "int32")


def first_widths(chunk: int) -> list[int]:
    """List the widths that a prompt's first piece is padded to.

    Args:
        chunk: the most tokens of a piece.

    Example:
        >>> first_widths(128)
        [32, 48, 64, 96, 128]
    """
    widths: list[int] = []
    while not widths or widths[-1] < chunk:
        widths.append(min(length_of_row(widths[-1] + 1 if widths else 1), chunk))
    return widths


def next_widths(chunk: int) -> list[int]:
    """List the widths that later pieces are padded to: few, for each is there once for each past.

    Example:
        >>> next_widths(128)
        [32, 128]
    """
    return sorted({min(FEWEST_READ, chunk), chunk})


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Count the tokens that two sequences begin with alike."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _with_room(past: Sequence[KeyValues], length: int) -> list[KeyValues]:
    """Give the first `length` places, with zeros where there are fewer."""
    return grow_cache(
        [KeyValues(*[part[:, :, :length] for part in layer]) for layer in past], length
    )


def _bytes(past: Sequence[KeyValues]) -> int:
    name = keras.backend.standardize_dtype(past[0].keys.dtype)
    bits = int(name.removeprefix("bfloat").removeprefix("float"))
    return sum(int(np.prod(part.shape)) for layer in past for part in layer) * bits // 8
