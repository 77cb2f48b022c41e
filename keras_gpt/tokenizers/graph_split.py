r"""The splits of text into words, as TensorFlow operations on a whole batch at once.

TensorFlow's regular expressions cannot run the patterns (see `splits`): they have no look-ahead
and another version of Unicode. But where words start depends on few neighbours, so no search is
needed. In GPT-2's pattern

- a word starts where the class (letter, number, space, other) changes, except after a single
  U+0020, which belongs to the word that follows;
- the last of several spaces before a word is split from the others: it is a word of its own, or
  the U+0020 of the word that follows;
- an apostrophe that stands alone in its run, not after U+0020, and before one of the endings is
  one word with the ending. The ending is part of a run of letters, and the rest of that run is a
  new word. What came before cannot matter, because the run before the apostrophe always ends there.

"digits" is the same, if each digit counts as a break between two texts that has some bytes.

In the patterns of Llama 3 and Qwen 2

- each number is a word, or the first, fourth, seventh... of a run is a word's start;
- a run of others starts a word, if not after U+0020, and takes the line ends right after it along;
- a run of spaces, without these line ends, starts a word. It is cut after its last line end, and
  before its last character if a word follows that one and it is no line end;
- a run of letters starts a word, except after one character that starts a word itself: the last
  of a run of spaces if that is no line end, or an other that is a run alone, not after U+0020;
- the apostrophe is as above, but upper-case endings count, and so does U+017F, an old s.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.tokenizers.splits import Split
from keras_gpt.tokenizers.unicode_classes import MORE_DIGITS, RANGES

BREAK, LETTER, NUMBER, SPACE, OTHER = range(5)
BREAK_CODE_POINT = -1

_CLASS_CODES = {"L": LETTER, "N": NUMBER, "S": SPACE, "O": OTHER}
_SHORT_ENDINGS = "stmd"
_LONG_ENDINGS = (("r", "e"), ("v", "e"), ("l", "l"))
_LONG_S = "\u017f"


def class_ranges(split: Split = "gpt2") -> tuple[np.ndarray, np.ndarray]:
    """Give the classes of code points as ranges.

    Args:
        split: the split that they are for.

    Returns:
        First code points (ranges,) int32, ascending from `BREAK_CODE_POINT`, and the class of
        each range (ranges,) int32.
    """
    pairs = [entry.split(":") for entry in RANGES.split()]
    classes = {int(start, 16): _CLASS_CODES[name] for start, name in pairs}
    if split == "digits":
        classes = {start: BREAK if of == NUMBER else of for start, of in classes.items()}
        for entry in MORE_DIGITS.split():
            first, last = (int(end, 16) for end in entry.split("-"))
            around = classes[max(start for start in classes if start <= first)]
            classes |= {first: BREAK, last + 1: classes.get(last + 1, around)}
    starts = [BREAK_CODE_POINT, *sorted(classes)]
    codes = [BREAK, *(classes[start] for start in starts[1:])]
    return np.array(starts, np.int32), np.array(codes, np.int32)


def word_starts(
    code_points: Any, range_starts: Any, range_codes: Any, split: Split = "gpt2"
) -> Any:
    """Find where words start.

    Args:
        code_points: (n,) int32, texts one after another, each followed by `BREAK_CODE_POINT`.
        range_starts: (ranges,) int32, from `class_ranges`.
        range_codes: (ranges,) int32, from `class_ranges`.
        split: the split, the same as for `class_ranges`.

    Returns:
        (n,) bool: whether a word starts at this code point. Each break is a word of its own.
    """
    ranges = tf.searchsorted(range_starts, code_points, side="right") - 1
    classes = tf.gather(range_codes, ranges)
    if split in ("llama3", "qwen2"):
        return _newer_starts(code_points, classes, in_threes=split == "llama3")
    return _gpt2_starts(code_points, classes)


def _gpt2_starts(code_points: Any, classes: Any) -> Any:
    before, after = _shifted(classes, 1, BREAK), _shifted(classes, -1, BREAK)
    is_space = tf.equal(classes, SPACE)
    after_blank = tf.equal(_shifted(code_points, 1, BREAK_CODE_POINT), ord(" "))
    changes = tf.not_equal(classes, before)
    last_space = is_space & tf.not_equal(after, SPACE) & tf.not_equal(after, BREAK)
    in_ending, after_ending = _endings(code_points, before, any_case=False)

    # A break after U+0020 is no part of the space's word.
    joins_blank = after_blank & ~is_space & tf.not_equal(classes, BREAK)
    plain = tf.equal(classes, BREAK) | (changes & ~joins_blank) | last_space
    return (plain & ~in_ending) | after_ending


def _newer_starts(code_points: Any, classes: Any, in_threes: bool) -> Any:
    before, after = _shifted(classes, 1, BREAK), _shifted(classes, -1, BREAK)
    index = tf.range(tf.size(classes))
    is_space, is_letter = tf.equal(classes, SPACE), tf.equal(classes, LETTER)
    line_end = _any_equal(code_points, "\r\n")
    after_line_end = _shifted(line_end, 1, False)
    after_blank = tf.equal(_shifted(code_points, 1, BREAK_CODE_POINT), ord(" "))
    changes = tf.not_equal(classes, before)
    run = tf.cumsum(tf.cast(changes, tf.int32))
    runs = tf.size(run) + 1

    # Line ends right after others belong to their word.
    line_run_start = line_end & ~after_line_end
    line_run = tf.cumsum(tf.cast(line_run_start, tf.int32))
    taken = tf.concat([[False], tf.boolean_mask(tf.equal(before, OTHER), line_run_start)], axis=0)
    taken = line_end & tf.gather(taken, line_run)
    last_line_end = tf.math.unsorted_segment_max(tf.where(line_end, index, -1), run, runs)
    space_start = changes | _shifted(taken, 1, False)
    space_start |= tf.equal(index - 1, tf.gather(last_line_end, run))
    space_start |= ~line_end & tf.not_equal(after, SPACE) & tf.not_equal(after, BREAK)
    space_start &= is_space & ~taken

    number_start = tf.equal(classes, NUMBER)
    if in_threes:
        run_start = tf.math.unsorted_segment_min(index, run, runs)
        number_start &= tf.equal((index - tf.gather(run_start, run)) % 3, 0)

    other_start = tf.equal(classes, OTHER) & changes & ~after_blank
    after_space = tf.equal(before, SPACE) & ~after_line_end
    letter_start = is_letter & changes & ~after_space & ~_shifted(other_start, 1, False)

    in_ending, after_ending = _endings(code_points, before, any_case=True)
    plain = space_start | number_start | other_start | letter_start | tf.equal(classes, BREAK)
    return (plain & ~in_ending) | after_ending


def _endings(code_points: Any, before: Any, any_case: bool) -> tuple[Any, Any]:
    """Find the endings 's, 't, 're, 've, 'm, 'll and 'd.

    Args:
        code_points: (n,) int32.
        before: (n,) int32, the class of the code point before each.
        any_case: whether endings in upper case count.

    Returns:
        Whether a code point is the first letter of an ending, and whether it is the first after
        an ending; both (n,) bool.
    """
    after_blank = tf.equal(_shifted(code_points, 1, BREAK_CODE_POINT), ord(" "))
    following = _shifted(code_points, -1, BREAK_CODE_POINT)
    second = _shifted(code_points, -2, BREAK_CODE_POINT)

    def is_one(points: Any, letters: str) -> Any:
        if any_case:
            letters += letters.upper() + (_LONG_S if "s" in letters else "")
        return _any_equal(points, letters)

    apostrophe = tf.equal(code_points, ord("'")) & tf.not_equal(before, OTHER) & ~after_blank
    short = apostrophe & is_one(following, _SHORT_ENDINGS)
    long = apostrophe & tf.reduce_any(
        [is_one(following, one) & is_one(second, two) for one, two in _LONG_ENDINGS], axis=0
    )
    return _shifted(short | long, 1, False), _shifted(short, 2, False) | _shifted(long, 3, False)


def _any_equal(code_points: Any, characters: str) -> Any:
    return tf.reduce_any(
        [tf.equal(code_points, ord(character)) for character in characters], axis=0
    )


def _shifted(values: Any, by: int, fill: Any) -> Any:
    """Move values `by` places to the right (left if negative) and fill the end that gets free."""
    end = tf.fill([abs(by)], tf.constant(fill, values.dtype))
    joined = tf.concat([end, values] if by > 0 else [values, end], axis=0)
    return joined[: tf.size(values)] if by > 0 else joined[-by:]
