"""The splits of byte-level tokenizers: eager, graph and the `tokenizers` library agree id for id.

The library's objects are built here from the published definitions, without our code.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from unicode_text import batches

from keras_gpt.tokenizers import Tokenizer, training
from keras_gpt.tokenizers.splits import SPLITS

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Line ends, apostrophes, digits of several scripts, and numbers that only Digits knows (U+11DE0).
TRICKY = st.text(
    st.sampled_from(" \t\n\r'sStTlLrReEvdDmſKaÉ!-红12٣½Ⅷ²３\U00011de3\U00016ff4\u3000\u0301"),
    max_size=24,
)


def pre_tokenizer(split: str) -> Any:
    """Build the library's pre-tokenizer."""
    if split == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if split == "digits":
        parts = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    else:
        number = {"llama3": r"\p{N}{1,3}", "qwen2": r"\p{N}"}[split]
        parts = [
            pre_tokenizers.Split(Regex(PATTERN % number), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    return pre_tokenizers.Sequence(parts)


def trained(split: str, text: str, **model: Any) -> Any:
    """Train a library tokenizer on text that has few bytes, as real ones lack bytes too."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE(**model))
    library.pre_tokenizer = pre_tokenizer(split)
    library.decoder = tokenizers.decoders.ByteLevel()
    printable = "".join(map(chr, range(0x20, 0x7F))).replace(" ", "Ġ")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>", "<|im_start|>"],
        initial_alphabet=list(printable),
        show_progress=False,
    )
    library.train_from_iterator([text, "红楼梦，123 456\r\n\r\n½ ٣٤"] * 2, trainer)
    return library


def agree(ours: Tokenizer, library: Any, several: list[str]) -> None:
    """Check eager and graph against the library."""
    expected = [one.ids for one in library.encode_batch(several, add_special_tokens=False)]
    assert ours.encode_batch(several) == expected
    assert ours.graph().tokenize(tf.constant(several, tf.string)).to_list() == expected
    assert ours.decode_batch(expected) == library.decode_batch(expected, skip_special_tokens=False)


@pytest.fixture(scope="module", params=SPLITS)
def split(request: pytest.FixtureRequest) -> str:
    """Each split."""
    return request.param


@pytest.fixture(scope="module")
def gpt2_pair(split: str, shared_data: Path) -> tuple[Tokenizer, Any]:
    """GPT-2's vocabulary with a split: our tokenizer and the library's."""
    folder = shared_data / "bpe" / "gpt2"
    files = str(folder / "encoder.json"), str(folder / "vocab.bpe")
    library = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*files))
    library.pre_tokenizer = pre_tokenizer(split)
    library.decoder = tokenizers.decoders.ByteLevel()
    base = Tokenizer.from_files(*files)
    vocabulary = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    return Tokenizer(vocabulary, base.merges, split=split), library


@pytest.fixture(scope="module")
def small_pair(split: str, some_text: str) -> tuple[Tokenizer, Any]:
    """A small tokenizer that the library trained and that lacks bytes, read from its JSON."""
    library = trained(split, some_text)
    ours = Tokenizer.from_json(library.to_str())
    library.encode_special_tokens = True
    return ours, library


@given(several=batches)
@settings(max_examples=200)
def test_any_unicode(gpt2_pair: tuple[Tokenizer, Any], several: list[str]) -> None:
    agree(*gpt2_pair, several)
    assert gpt2_pair[0].decode_batch(gpt2_pair[0].encode_batch(several)) == several


@given(several=st.lists(TRICKY, min_size=1, max_size=20))
@settings(max_examples=300)
def test_tricky_text(
    gpt2_pair: tuple[Tokenizer, Any], small_pair: tuple[Tokenizer, Any], several: list[str]
) -> None:
    agree(*gpt2_pair, several)
    agree(*small_pair, several)


@given(several=batches)
def test_a_file_that_is_read_in_pieces_gives_the_same_ids(
    gpt2_pair: tuple[Tokenizer, Any], several: list[str]
) -> None:
    """Whatever split the tokenizer has, `read_pieces` cuts where a word starts."""
    ours, _ = gpt2_pair
    text = "a，1 ".join(several)
    cuts = [0, *(match.start() for match in training._CUT.finditer(text)), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(cuts)]
    assert [*itertools.chain(*ours.encode_batch(pieces))] == ours.encode(text)


@given(several=batches)
def test_bytes_without_tokens_are_left_out(
    small_pair: tuple[Tokenizer, Any], several: list[str]
) -> None:
    agree(*small_pair, several)
    assert small_pair[0].token_to_id("Ą") is None  # the byte 0x04
    assert small_pair[0].encode("a\x04") == small_pair[0].encode("a")


def test_every_code_point(gpt2_pair: tuple[Tokenizer, Any]) -> None:
    """After a letter, an apostrophe, an other and a blank; before a digit, a letter and an end."""
    points = [*range(0x3000), *range(0x3000, 0xD800, 7), *range(0xE000, 0x12000, 3)]
    points += [*range(0x11D00, 0x11E00), *range(0x16F00, 0x17000), *range(0x12000, 0x110000, 61)]
    lines = [
        "".join(f"a{chr(c)}1{chr(c)}b'{chr(c)}!{chr(c)} {chr(c)}\n" for c in points[i : i + 400])
        for i in range(0, len(points), 400)
    ]
    agree(*gpt2_pair, lines)


def test_real_text(
    gpt2_pair: tuple[Tokenizer, Any], small_pair: tuple[Tokenizer, Any], some_text: str
) -> None:
    for pair in (gpt2_pair, small_pair):
        agree(*pair, [some_text])
        agree(*pair, [some_text[i : i + 700] for i in range(0, len(some_text), 700)])


def test_the_split_is_kept(small_pair: tuple[Tokenizer, Any], split: str) -> None:
    ours, _ = small_pair
    assert ours.split == split
    again = Tokenizer.from_config(json.loads(json.dumps(ours.get_config())))
    assert again == ours
    assert again.split == split
    other = next(one for one in SPLITS if one != split)
    parts = {token: ours.token_to_id(token) for token in map(ours.id_to_token, range(700))}
    special = list(ours.special_tokens)
    assert Tokenizer(parts, ours.merges, special, split=split) == ours
    assert Tokenizer(parts, ours.merges, special, split=other) != ours
    # The library reads what we write.
    library = tokenizers.Tokenizer.from_str(ours.to_json())
    text = "It's 1234 o'CLOCK!\n\n  'LL"
    assert library.encode(text).ids == ours.encode(text)


@pytest.fixture(scope="module")
def whole_words(some_text: str) -> tuple[Tokenizer, Any]:
    """A tokenizer with `ignore_merges` whose vocabulary has words that merges do not make."""
    state = json.loads(trained("llama3", some_text).to_str())
    for word in ("Ġgrasshopper", "grass", "!!!!!", "123", "Ġ'", "çº¢", "qqq"):  # çº¢ is 红
        state["model"]["vocab"].setdefault(word, len(state["model"]["vocab"]))
    state["model"]["ignore_merges"] = True
    library = tokenizers.Tokenizer.from_str(json.dumps(state))
    library.encode_special_tokens = True
    return Tokenizer.from_json(json.dumps(state)), library


@given(
    several=st.lists(
        st.lists(
            st.sampled_from(
                [
                    "grass",
                    " grasshopper",
                    "!!!!!",
                    "123",
                    " '",
                    "红",
                    "qqq",
                    "q",
                    " ",
                    "4",
                    "s",
                    "\x04",
                ]
            ),
            max_size=8,
        ).map("".join),
        min_size=1,
    )
)
def test_whole_words_need_no_merges(whole_words: tuple[Tokenizer, Any], several: list[str]) -> None:
    agree(*whole_words, several)


def test_ignore_merges_is_kept_and_matters(whole_words: tuple[Tokenizer, Any]) -> None:
    ours, _ = whole_words
    assert ours.ignore_merges
    assert ours.graph()._words is not None
    assert [ours.token_to_id("Ġgrasshopper")] == ours.encode(" grasshopper")
    state = json.loads(ours.to_json())
    assert state["model"]["ignore_merges"] is True
    state["model"]["ignore_merges"] = False
    merging = Tokenizer.from_json(json.dumps(state))
    assert merging != ours
    assert len(merging.encode(" grasshopper")) > 1
    empty = ours.graph().tokenize(tf.constant(["", ""]))
    assert empty.to_list() == [[], []]


@pytest.fixture(scope="module")
def nfc_pair(some_text: str) -> tuple[Tokenizer, Any]:
    """A tokenizer with an NFC normalizer, ours and the library's."""
    library = trained("qwen2", some_text)
    library.normalizer = tokenizers.normalizers.NFC()
    return Tokenizer.from_json(library.to_str()), library


@given(several=batches)
def test_nfc_is_the_librarys(nfc_pair: tuple[Tokenizer, Any], several: list[str]) -> None:
    ours, library = nfc_pair
    several = [*several, *(text + "e\u0301 가<|endoftext|>" for text in several)]
    for allow in (False, True):
        library.encode_special_tokens = not allow
        expected = [one.ids for one in library.encode_batch(several)]
        assert ours.encode_batch(several, allow_special=allow) == expected


def test_what_the_graph_cannot_do_is_named(nfc_pair: tuple[Tokenizer, Any]) -> None:
    ours, _ = nfc_pair
    assert ours.nfc
    assert Tokenizer.from_json(ours.to_json()) == ours
    with pytest.raises(ValueError, match="Received: a tokenizer with nfc=True"):
        ours.graph()
    state = json.loads(ours.to_json())
    state["normalizer"] = None
    Tokenizer.from_json(json.dumps(state)).graph()
    state["added_tokens"][1]["special"] = False
    with pytest.raises(ValueError, match=r"added_tokens=.*im_start"):
        Tokenizer.from_json(json.dumps(state)).graph()
