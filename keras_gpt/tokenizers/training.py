"""Vocabularies and merges from text."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from keras_gpt.tokenizers.checks import check_text

BLOCK_CHARACTERS = 1 << 16
LONGEST_PIECE = 1 << 22

# A place where every split, and GPT-1's cleaning, starts a new word whatever comes before or after:
# blank space or a Chinese comma or stop after a letter or digit. A line end would not do: it may
# stand inside a run of blank space, which is one word up to its last character.
_CUT = re.compile(r"(?<=[^\W_])[ \t\r\n，。、]")


def train_byte_level(
    texts: Iterable[str], vocab_size: int | None, special_tokens: Sequence[str]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train byte-level byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; GPT-2).

    Args:
        texts: strings; each is split into words by GPT-2's pattern.
        vocab_size: the number of ids wanted, special tokens included. There are fewer when the
            texts hold too few pairs that occur twice.
        special_tokens: tokens that get the last ids.

    Returns:
        The vocabulary (token in the byte alphabet -> id) and the merges, first merge first.

    Raises:
        ValueError: `vocab_size` has no room for the 256 bytes, or the texts are empty.
        TypeError: something in `texts` is not a string.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    least = 256 + len(special_tokens)
    if not isinstance(vocab_size, int) or isinstance(vocab_size, bool) or vocab_size < least:
        raise ValueError(
            f"vocab_size must be an int of at least {least} (256 bytes and {len(special_tokens)} "
            f"special tokens). Received: vocab_size={vocab_size!r}"
        )
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special_tokens),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    engine.train_from_iterator(_checked(texts), trainer)

    model = json.loads(engine.to_str())["model"]
    vocabulary = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    return vocabulary, [(left, right) for left, right in model["merges"]]


def train_characters(texts: Iterable[str]) -> dict[str, int]:
    """Give each character that occurs an id, in the order of code points.

    Args:
        texts: strings.

    Returns:
        The vocabulary: character -> id.

    Raises:
        ValueError: the texts are empty.
        TypeError: something in `texts` is not a string.
    """
    seen: set[str] = set()
    for text in _checked(texts):
        seen.update(text)
    return {character: index for index, character in enumerate(sorted(seen))}


def read_pieces(files: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """Read text files in pieces of bounded size that cut no word in two.

    Args:
        files: paths of UTF-8 text files. Line ends are kept as they are.

    Yields:
        Pieces of about 64 Ki characters; joined, they are the text. Only text that has no place
        for a cut in 4 Mi characters is cut anywhere.

    Raises:
        ValueError: a file is not UTF-8 text.
        OSError: a file cannot be read.
    """
    for path in files:
        with open(path, encoding="utf-8", newline="") as opened:
            held = ""
            while True:
                try:
                    block = opened.read(BLOCK_CHARACTERS)
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"a text file must be UTF-8; {error.reason} (byte "
                        f"0x{error.object[error.start]:02x}). Received: file={os.fspath(path)!r}"
                    ) from error
                if not block:
                    break
                held += block
                cut = _last_cut(held, len(held) - len(block))
                if cut:
                    yield held[:cut]
                    held = held[cut:]
            if held:
                yield held


def _last_cut(text: str, first: int) -> int:
    """Find the last cut at or after `first`, or 0. Earlier text is known to have none."""
    cut = 0
    for match in _CUT.finditer(text, max(first - 1, 0)):
        cut = match.start()
    return cut or (len(text) if len(text) >= LONGEST_PIECE else 0)


def checked_files(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[Path]:
    """Turn one path or several into a list of files that exist.

    Args:
        files: a path, or paths.

    Returns:
        The paths; at least one.

    Raises:
        FileNotFoundError: one of them does not exist.
        IsADirectoryError: one of them is a folder.
        ValueError: there are none.
    """
    paths = [Path(files)] if isinstance(files, str | os.PathLike) else [Path(one) for one in files]
    if not paths:
        raise ValueError("files must name at least one text file. Received: files=[]")
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"files must be text files, not folders. Received: {path}")
        if not path.exists():
            raise FileNotFoundError(f"no such text file. Received: {path}")
    return paths


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """Pass strings on, and complain about what is not text and about no text at all."""
    if isinstance(texts, str | bytes):
        raise TypeError(
            f"texts must be an iterable of strings, not one string. Received: texts={texts[:40]!r}"
        )
    empty = True
    for index, text in enumerate(texts):
        check_text(text, f"texts[{index}]")
        empty = empty and not text
        yield text
    if empty:
        raise ValueError("there is no text to train on: every file or string is empty")
