"""The files: tokenizer.json, vocabulary and merges."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from unicode_text import batches

from keras_gpt.tokenizers import Tokenizer
from keras_gpt.tokenizers.byte_alphabet import byte_characters


@given(several=batches)
def test_the_library_reads_what_we_write(small: Tokenizer, several: list[str]) -> None:
    library = tokenizers.Tokenizer.from_str(small.to_json())
    library.encode_special_tokens = True
    ids = [library.encode(text).ids for text in several]
    assert ids == small.encode_batch(several)
    assert library.decode_batch(ids) == small.decode_batch(ids)


@pytest.mark.parametrize("name", ["small", "characters"])
def test_save_and_load(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    tokenizer.save(tmp_path / "new" / "folder")
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["tokenizer.json"]
    assert Tokenizer.load(tmp_path / "new" / "folder") == tokenizer
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "new" / "folder" / "tokenizer.json"))
    assert library.encode("Hello").ids == tokenizer.encode("Hello")
    assert library.decode(library.encode("Hello").ids) == "Hello"
    assert library.get_vocab_size() == tokenizer.vocab_size


def test_save_replaces_the_older_file_only_when_done(
    small: Tokenizer, chinese: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.save(tmp_path)

    def full_disk(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space left"):
            chinese.save(tmp_path)
    assert Tokenizer.load(tmp_path) == small
    assert len(list(tmp_path.iterdir())) == 1
    chinese.save(tmp_path)
    assert Tokenizer.load(tmp_path) == chinese


def test_a_file_of_the_library_is_read(tmp_path: Path, some_text: str) -> None:
    library = tokenizers.ByteLevelBPETokenizer()
    library.train_from_iterator([some_text], 500, special_tokens=["<s>", "<|endoftext|>"])
    library.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert ours.vocab_size == 500
    assert ours.special_tokens == {"<s>": 0, "<|endoftext|>": 1}
    assert ours.end_of_text_id == 1
    assert ours.encode(some_text) == library.encode(some_text).ids


def test_vocabulary_and_merges_of_the_library_are_read(small: Tokenizer, tmp_path: Path) -> None:
    library = tokenizers.Tokenizer.from_str(small.to_json())
    vocab, merges = library.model.save(str(tmp_path))
    assert Path(merges).read_text(encoding="utf-8").startswith("#version")
    assert Tokenizer.from_files(vocab, merges) == small
    plain = tmp_path / "plain.txt"
    lines = Path(merges).read_text(encoding="utf-8").split("\n", 1)[1]
    plain.write_text(lines.rstrip("\n").replace("\n", "\r\n"), encoding="utf-8", newline="")
    assert Tokenizer.from_files(vocab, plain) == small


def test_a_special_token_that_the_vocabulary_lacks_gets_the_next_id(tmp_path: Path) -> None:
    vocabulary = {character: index for index, character in enumerate(byte_characters())}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("")
    tokenizer = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert tokenizer.special_tokens == {"<|endoftext|>": 256}


def test_both_ways_to_write_a_merge_are_read(small: Tokenizer) -> None:
    state = json.loads(small.to_json())
    state["model"]["merges"] = [" ".join(pair) for pair in state["model"]["merges"]]
    assert Tokenizer.from_json(json.dumps(state)) == small


def change(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    """Make a function that changes one entry of a nested dict."""

    def apply(state: dict[str, Any]) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = to

    return apply


def added(**flags: Any) -> list[dict[str, Any]]:
    """Write a list of one added token."""
    return [{"id": 599, "content": "<|endoftext|>", "special": True} | flags]


def nested(depth: int) -> dict[str, Any]:
    """Write a sequence in a sequence, and so on."""
    part: dict[str, Any] = {"type": "ByteLevel"}
    for _ in range(depth // 2):
        part = {"type": "Sequence", "pretokenizers": [part]}
    return part


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change("normalizer", to={"type": "NFKC"}), "normalizer NFKC is not supported"),
        (change("post_processor", to={"type": "BertProcessing"}), "BertProcessing"),
        (change("pre_tokenizer", to={"type": "Metaspace"}), "pre-tokenizer Metaspace"),
        (change("pre_tokenizer", to=None), "pre-tokenizer None"),
        (change("pre_tokenizer", "add_prefix_space", to=True), "add_prefix_space"),
        (change("pre_tokenizer", "use_regex", to=False), "use_regex"),
        (change("decoder", to=None), "decoder None"),
        (change("model", "type", to="WordPiece"), "WordPiece"),
        (change("model", "dropout", to=0.1), "dropout"),
        (change("model", "end_of_word_suffix", to="</w>"), "end_of_word_suffix"),
        (change("model", "vocab", to=None), "model with a vocab"),
        (change("model", "merges", to=["abc"]), "two tokens"),
        (change("model", "merges", to=5), "merges must be a list"),
        (change("added_tokens", to=5), "added_tokens must be a list"),
        (change("normalizer", to="NFC"), "normalizer of type str is not"),
        (change("pre_tokenizer", to="ByteLevel"), "pre-tokenizer of type str"),
        (change("pre_tokenizer", to="Sequence"), "pre-tokenizer of type str"),
        (change("pre_tokenizer", to=nested(800)), "pre-tokenizer Sequence"),
        (change("added_tokens", to=added(special=False, normalized=True)), "normalized"),
        (change("added_tokens", to=added(lstrip=True)), "lstrip"),
        (change("added_tokens", to=added(id=3)), "two ids"),
        (change("added_tokens", to=added(id=None)), "a content and an id"),
        (change("added_tokens", to=["<s>"]), "a content and an id"),
        (change("model", "vocab", "!", to="0"), "must be integers"),
    ],
)
def test_what_is_not_supported_is_named(
    small: Tokenizer, tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    state = json.loads(small.to_json())
    spoil(state)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(tmp_path)


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        Tokenizer.from_file(tmp_path / "none.json")
    broken = tmp_path / "broken"
    broken.write_bytes(b"{")
    with pytest.raises(ValueError, match="must be JSON"):
        Tokenizer.from_file(broken)
    broken.write_bytes(b"[" * 200_000)
    with pytest.raises(ValueError, match="must be JSON"):
        Tokenizer.from_file(broken)
    broken.write_bytes(b"[]")
    with pytest.raises(ValueError, match="JSON object"):
        Tokenizer.from_file(broken)
    broken.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="UTF-8 text; invalid start byte at byte 7"):
        Tokenizer.from_file(broken)
    vocabulary = {character: index for index, character in enumerate(byte_characters())}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    broken.write_text("#version: 0.2\na\n")
    with pytest.raises(ValueError, match="line 2"):
        Tokenizer.from_files(tmp_path / "vocab.json", broken)
