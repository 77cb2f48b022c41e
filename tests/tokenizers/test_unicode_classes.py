"""The table of character classes against the library, for every code point."""

import itertools

import numpy as np
import tokenizers

from keras_gpt.tokenizers.graph_split import BREAK, class_ranges
from keras_gpt.tokenizers.make_unicode_classes import library_classes, library_digits
from keras_gpt.tokenizers.unicode_classes import MORE_DIGITS, RANGES

KNOWN = {"L": "a", "N": "1", "O": "!"}


def ranges() -> list[tuple[int, int, str]]:
    """List the table as (first, end, class)."""
    entries = [entry.split(":") for entry in RANGES.split()]
    starts = [int(start, 16) for start, _ in entries] + [0x110000]
    return [(starts[i], starts[i + 1], name) for i, (_, name) in enumerate(entries)]


def test_the_table_says_what_the_library_does() -> None:
    """Characters of one class, after one that is known to be of it, are one word."""
    split = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    assert ranges()[0][0] == 0
    for first, end, name in ranges():
        text = "".join(chr(c) for c in range(first, end) if not 0xD800 <= c < 0xE000)
        if name == "S":
            for character in text:
                for known in KNOWN.values():
                    assert len(split(known + character)) == 2, f"U+{ord(character):04X}"
                assert len(split(character + " ")) == 1, f"U+{ord(character):04X}"
        else:
            assert len(split(KNOWN[name] + text)) == 1, f"U+{first:04X}..U+{end - 1:04X}"


def test_the_program_makes_the_table() -> None:
    """The first 0x3000 code points again, by the road that made the table."""
    made = list(itertools.islice(library_classes(), 0x3000))
    table = [name for first, end, name in ranges() for _ in range(first, end)]
    assert made == table[:0x3000]


def test_the_digits_are_the_librarys() -> None:
    """Over all of Unicode: the numbers of the table and MORE_DIGITS, which the patterns lack."""
    expected = {c for first, end, name in ranges() if name == "N" for c in range(first, end)}
    for entry in MORE_DIGITS.split():
        first, last = (int(end, 16) for end in entry.split("-"))
        more = set(range(first, last + 1))
        assert not more & expected
        expected |= more
    assert {c for c, digit in enumerate(library_digits()) if digit} == expected


def test_each_digit_is_a_break_between_texts() -> None:
    """The table for the split "digits" differs from GPT-2's in the digits only."""
    plain, digits = (
        np.repeat(codes, np.diff([*starts, 0x110000]))
        for starts, codes in (class_ranges("gpt2"), class_ranges("digits"))
    )
    expected = np.append(False, list(library_digits()))  # the first is no character
    changed = plain != digits
    assert (changed == expected).all()
    assert (digits[changed] == BREAK).all()
