"""tokenizer.json as real models have it: post-processors, added tokens, gaps in the ids."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from unicode_text import batches

from keras_gpt.tokenizers import Tokenizer
from keras_gpt.tokenizers.splits import SPLITS, split_json

TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {
        "<|endoftext|>": {"id": "<|endoftext|>", "ids": [599], "tokens": ["<|endoftext|>"]}
    },
}
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": False,
    "use_regex": True,
}


def with_state(tokenizer: Tokenizer, **parts: Any) -> str:
    """Write a tokenizer with other parts of its JSON."""
    return json.dumps(json.loads(tokenizer.to_json()) | parts)


def added(content: str, token_id: int, **flags: bool) -> dict[str, Any]:
    """Write an added token."""
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": token_id, "content": content} | dict.fromkeys(names, False) | flags


@pytest.mark.parametrize(
    "processor", [TEMPLATE, BYTE_LEVEL, {"type": "Sequence", "processors": [BYTE_LEVEL, TEMPLATE]}]
)
def test_post_processors_are_dropped(small: Tokenizer, processor: dict[str, Any]) -> None:
    """They put special tokens at the ends, or change offsets; `encode` adds no special token."""
    text = with_state(small, post_processor=processor)
    library = tokenizers.Tokenizer.from_str(text)
    ours = Tokenizer.from_json(text)
    assert ours == small
    plain = library.encode("Hello world", add_special_tokens=False).ids
    assert ours.encode("Hello world") == plain
    if processor != BYTE_LEVEL:
        assert library.encode("Hello world").ids == [599, *plain]


@pytest.mark.parametrize("split", SPLITS)
def test_what_does_not_change_ids_may_differ(small: Tokenizer, split: str) -> None:
    pre_tokenizer = json.loads(json.dumps(split_json(split)))
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    steps[-1]["trim_offsets"] = False
    if steps[-1]["use_regex"]:
        del steps[-1]["use_regex"]  # files that are older than this option
    ours = Tokenizer.from_json(with_state(small, pre_tokenizer=pre_tokenizer, decoder=BYTE_LEVEL))
    assert ours.split == split
    assert (ours == small) == (split == "gpt2")


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    """Write a pre-tokenizer of several steps."""
    return {"type": "Sequence", "pretokenizers": list(steps)}


DIGITS, AFTER_DIGITS = split_json("digits")["pretokenizers"]
PATTERN, AFTER_PATTERN = split_json("llama3")["pretokenizers"]


@pytest.mark.parametrize(
    ("pre_tokenizer", "message"),
    [
        (sequence(DIGITS | {"individual_digits": False}, AFTER_DIGITS), "Digits, ByteLevel"),
        (sequence(AFTER_DIGITS, DIGITS), "ByteLevel, Digits"),
        (sequence(DIGITS, AFTER_DIGITS | {"use_regex": False}), "Digits, ByteLevel"),
        (sequence(DIGITS, AFTER_DIGITS | {"add_prefix_space": True}), "add_prefix_space"),
        (sequence(PATTERN, AFTER_PATTERN | {"use_regex": True}), "Split, ByteLevel"),
        (sequence(PATTERN | {"behavior": "Removed"}, AFTER_PATTERN), "Split, ByteLevel"),
        (sequence(PATTERN | {"invert": True}, AFTER_PATTERN), "Split, ByteLevel"),
        (sequence(PATTERN | {"pattern": {"Regex": r"\s+"}}, AFTER_PATTERN), "Split, ByteLevel"),
        (sequence({"type": "Punctuation"}, AFTER_DIGITS), "pre-tokenizer Punctuation"),
        (sequence(), "pre-tokenizers"),
    ],
)
def test_other_pre_tokenizers_are_named(
    small: Tokenizer, pre_tokenizer: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"{message}.* is not supported"):
        Tokenizer.from_json(with_state(small, pre_tokenizer=pre_tokenizer))


@pytest.fixture(scope="module")
def tools(small: Tokenizer) -> tuple[Tokenizer, Any]:
    """A tokenizer with added tokens that are not special, as Qwen 2.5 has them."""
    tokens = [
        added("<|endoftext|>", 599, special=True),
        added("<tool>", 600),
        added("<tool>s", 601),
        added("</tool>", 602),
        added("<|im_end|>", 603, special=True),
    ]
    text = with_state(small, added_tokens=tokens)
    return Tokenizer.from_json(text), tokenizers.Tokenizer.from_str(text)


@given(several=batches)
def test_added_tokens_are_found_in_every_text(
    tools: tuple[Tokenizer, Any], several: list[str]
) -> None:
    ours, library = tools
    several = [f"{text}<tool>{text}<|im_end|><tool>s</tool>" for text in several]
    for allow in (False, True):
        library.encode_special_tokens = not allow
        expected = [one.ids for one in library.encode_batch(several)]
        assert ours.encode_batch(several, allow_special=allow) == expected
        for skip in (False, True):
            text = library.decode_batch(expected, skip_special_tokens=skip)
            assert ours.decode_batch(expected, skip_special=skip) == text


def test_added_tokens_are_kept(tools: tuple[Tokenizer, Any]) -> None:
    ours, _ = tools
    assert ours.added_tokens == {"<tool>": 600, "<tool>s": 601, "</tool>": 602}
    assert ours.special_tokens == {"<|endoftext|>": 599, "<|im_end|>": 603}
    assert ours.vocab_size == 604
    again = Tokenizer.from_json(ours.to_json())
    assert again == ours
    assert again.added_tokens == ours.added_tokens


def with_gap(tokenizer: Tokenizer, **tokens: int) -> str:
    """Write a tokenizer with more tokens in its vocabulary."""
    state = json.loads(tokenizer.to_json())
    state["model"]["vocab"] |= tokens
    return json.dumps(state)


@given(several=batches)
def test_ids_without_tokens_get_placeholders(small: Tokenizer, several: list[str]) -> None:
    text = with_gap(small, xyzzy=603)
    ours, library = Tokenizer.from_json(text), tokenizers.Tokenizer.from_str(text)
    assert ours.vocab_size == 604
    assert [ours.id_to_token(one) for one in (600, 602)] == ["<|unused_600|>", "<|unused_602|>"]
    assert ours.special_tokens == small.special_tokens
    assert ours.decode([600]) == "<|unused_600|>"
    assert 600 not in ours.encode("<|unused_600|>", allow_special=True)
    assert Tokenizer.from_json(ours.to_json()) == ours
    library.encode_special_tokens = True
    assert ours.encode_batch(several) == [one.ids for one in library.encode_batch(several)]


def test_ids_that_do_not_fit_are_refused(small: Tokenizer) -> None:
    with pytest.raises(ValueError, match="601 tokens with ids up to 1000000000"):
        Tokenizer.from_json(with_gap(small, xyzzy=10**9))
    with pytest.raises(ValueError, match=r"no token has the id 600, and its placeholder"):
        Tokenizer.from_json(with_gap(small, **{"<|unused_600|>": 601}))
    for token_id in (5, 601):  # taken, and not the one that the library gives it
        text = with_state(small, added_tokens=[added("<x>", token_id, special=True)])
        assert tokenizers.Tokenizer.from_str(text).token_to_id("<x>") == 600
        with pytest.raises(ValueError, match=f"stands for 600. Received: id {token_id}"):
            Tokenizer.from_json(text)


def test_a_special_token_may_be_normalized_where_nothing_is(small: Tokenizer) -> None:
    """GPT-2's own file says so."""
    normalized = [added("<|endoftext|>", 599, special=True, normalized=True)]
    assert Tokenizer.from_json(with_state(small, added_tokens=normalized)) == small
    text = with_state(small, added_tokens=normalized, normalizer={"type": "NFC"})
    with pytest.raises(ValueError, match="that is normalized is not supported"):
        Tokenizer.from_json(text)


def test_an_unknown_token_needs_bytes_that_are_unknown(small: Tokenizer) -> None:
    state = json.loads(small.to_json())
    state["model"]["unk_token"] = "<|endoftext|>"
    assert Tokenizer.from_json(json.dumps(state)) == small
    token_id = state["model"]["vocab"].pop("Ą")
    state["model"]["vocab"]["ĄĄ"] = token_id
    with pytest.raises(ValueError, match="an unk_token for bytes that have no token"):
        Tokenizer.from_json(json.dumps(state))


@pytest.mark.parametrize(
    ("name", "split", "nfc"), [("GPT2Tokenizer", "gpt2", False), ("Qwen2Tokenizer", "qwen2", True)]
)
def test_files_that_transformers_writes_are_read(
    small: Tokenizer, some_text: str, tmp_path: Path, name: str, split: str, nfc: bool
) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra parity is not installed")
    model = json.loads(small.to_json())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    peer = getattr(transformers, name)(vocab=model["vocab"], merges=merges)
    peer.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert (ours.split, ours.nfc) == (split, nfc)
    assert ours.special_tokens == small.special_tokens
    text = some_text + "e\u0301 12345\r\n\n<|endoftext|>x"
    assert ours.encode(text, allow_special=True) == peer(text)["input_ids"]
    ours.save(tmp_path / "again")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "again" / "tokenizer.json")
    )
    assert fast(text)["input_ids"] == peer(text)["input_ids"]
