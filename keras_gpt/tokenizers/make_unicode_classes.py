"""Makes unicode_classes.py from what the `tokenizers` library does with every code point.

Run it again when the library moves to a newer version of Unicode:

    python -m keras_gpt.tokenizers.make_unicode_classes
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_gpt.files import whole_file

LETTER, NUMBER, SPACE, OTHER = "LNSO"

_HEAD = '''r"""The class of every Unicode code point in GPT-2's pattern; made by a program.

    python -m keras_gpt.tokenizers.make_unicode_classes

made it from the behaviour of tokenizers {version}. Each entry is the first code point of a range,
in hexadecimal, and its class: L for \\p{{L}}, N for \\p{{N}}, S for \\s, O for all others.

The library's Digits pre-tokenizer follows a newer version of Unicode than its patterns. It takes
all N for digits and those of MORE_DIGITS (first-last, in hexadecimal) too.
"""

RANGES = """
{ranges}
"""

MORE_DIGITS = "{more_digits}"
'''


def library_classes() -> Iterator[str]:
    """Ask the library for the class of each code point.

    Yields:
        0x110000 letters: L, N, S or O. Surrogates, which no text holds, are O.
    """
    from tokenizers import pre_tokenizers

    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for code_point in range(0x110000):
        if 0xD800 <= code_point < 0xE000:
            yield OTHER
        else:
            yield _class_of(pre_tokenizer, chr(code_point))


def library_digits() -> Iterator[bool]:
    """Ask the library which code points its Digits pre-tokenizer takes for digits.

    Yields:
        0x110000 answers; surrogates are no digits.
    """
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    for code_point in range(0x110000):
        surrogate = 0xD800 <= code_point < 0xE000
        yield not surrogate and len(digits.pre_tokenize_str(f"a{chr(code_point)}a")) == 3


def _class_of(pre_tokenizer: Any, character: str) -> str:
    """A character is of a class if it joins a character of that class in one word."""
    for known, name in (("a", LETTER), ("1", NUMBER), ("!", OTHER)):
        if len(pre_tokenizer.pre_tokenize_str(known + character)) == 1:
            return name
    return SPACE


def _more_digits(classes: list[str]) -> str:
    """Write the ranges of the digits that are not of class N."""
    ranges: list[list[int]] = []
    for code_point, digit in enumerate(library_digits()):
        if digit == (classes[code_point] == NUMBER):
            continue
        if not digit:
            raise ValueError(f"\\p{{N}} has U+{code_point:04X}, which Digits does not split off")
        if ranges and ranges[-1][1] == code_point - 1:
            ranges[-1][1] = code_point
        else:
            ranges.append([code_point, code_point])
    return " ".join(f"{first:X}-{last:X}" for first, last in ranges)


def main() -> None:
    """Write unicode_classes.py beside this file."""
    import tokenizers

    classes = list(library_classes())
    starts = []
    code_point = 0
    for name, group in itertools.groupby(classes):
        starts.append(f"{code_point:X}:{name}")
        code_point += sum(1 for _ in group)
    lines = [" ".join(starts[index : index + 11]) for index in range(0, len(starts), 11)]
    text = _HEAD.format(
        version=tokenizers.__version__,
        ranges="\n".join(lines),
        more_digits=_more_digits(classes),
    )
    with whole_file(Path(__file__).with_name("unicode_classes.py")) as scratch:
        scratch.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
