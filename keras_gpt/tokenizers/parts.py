"""What a tokenizer consists of."""

from collections.abc import Sequence
from typing import NamedTuple

from keras_gpt.tokenizers.checks import Level
from keras_gpt.tokenizers.splits import Split


class Parts(NamedTuple):
    """What a tokenizer consists of; the names are those of the arguments of `Tokenizer`."""

    vocabulary: dict[str, int]
    """Token as written in the file -> id; special and added tokens are among them."""
    merges: list[tuple[str, str]]
    special_tokens: Sequence[str]
    level: Level
    split: Split = "gpt2"
    ignore_merges: bool = False
    nfc: bool = False
    added_tokens: Sequence[str] = ()
