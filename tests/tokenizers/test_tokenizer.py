"""Tokenizer: encoding, special tokens, equality, serialization."""

import copy
import json
import os
import pickle
import subprocess
import sys

import keras
import pytest
from hypothesis import given
from unicode_text import texts

from keras_gpt.tokenizers import Tokenizer
from keras_gpt.tokenizers.byte_alphabet import byte_characters


@given(text=texts)
def test_decode_undoes_encode(small: Tokenizer, chinese: Tokenizer, text: str) -> None:
    for tokenizer in (small, chinese):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode("utf-8")


def test_characters_have_ids_in_the_order_of_code_points(characters: Tokenizer) -> None:
    text = "Hello 红楼梦 🙂\n"
    known = sorted(set("Hello, world!\n红楼梦 🙂"))
    assert characters.vocab_size == len(known) + 1
    assert characters.end_of_text_id == len(known)
    assert characters.encode(text) == [known.index(character) for character in text]
    assert characters.decode(characters.encode(text)) == text


def test_an_unknown_character_is_named_with_its_place(characters: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"'z' \(U\+007A\) at position 3"):
        characters.encode("Helz")
    with pytest.raises(ValueError, match=r"'z'"):
        characters.encode_batch(["Hello", "z"])


def test_batch_equals_one_by_one(small: Tokenizer) -> None:
    several = ["", "one", "two  two", "三", "\0", "<|endoftext|>"]
    assert small.encode_batch(several) == [small.encode(text) for text in several]
    assert small.encode_batch([]) == []
    assert small.encode_batch(iter(several), allow_special=True) == [
        small.encode(text, allow_special=True) for text in several
    ]
    assert small.decode_batch(small.encode_batch(several)) == several


def test_special_tokens_in_text_are_text_unless_allowed(small: Tokenizer) -> None:
    text = "a<|endoftext|><|endoftext|> b"
    end = small.end_of_text_id
    assert end == small.vocab_size - 1 == small.special_tokens["<|endoftext|>"]
    assert end not in small.encode(text)
    assert small.decode(small.encode(text)) == text
    allowed = small.encode(text, allow_special=True)
    assert allowed == [*small.encode("a"), end, end, *small.encode(" b")]
    assert small.decode(allowed) == text
    assert small.decode(allowed, skip_special=True) == "a b"


def test_of_two_special_tokens_the_longer_one_is_found() -> None:
    tokenizer = Tokenizer.train_from_texts(
        ["some text"], 300, special_tokens=["<a>", "<a><b>", "(.*)"]
    )
    ids = tokenizer.special_tokens
    assert tokenizer.encode("<a><a><b>(.*)", allow_special=True) == [
        ids["<a>"],
        ids["<a><b>"],
        ids["(.*)"],
    ]
    assert tokenizer.end_of_text_id is None


def test_special_tokens_for_characters(characters: Tokenizer) -> None:
    assert characters.encode("H<|endoftext|>", allow_special=True)[-1] == characters.end_of_text_id
    with pytest.raises(ValueError, match="'<'"):
        characters.encode("H<|endoftext|>")


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["a"]])
def test_what_is_not_text_is_refused(small: Tokenizer, value: object) -> None:
    with pytest.raises(TypeError, match="text must be a str"):
        small.encode(value)
    with pytest.raises(TypeError, match=r"texts\[1\] must be a str"):
        small.encode_batch(["fine", value])


def test_one_string_is_not_a_batch(small: Tokenizer) -> None:
    with pytest.raises(TypeError, match="not one string"):
        small.encode_batch("text")


def test_a_lone_surrogate_is_refused_with_its_place(small: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"U\+D800 at position 5"):
        small.encode("12345\ud800")
    with pytest.raises(ValueError, match=r"texts\[1\].*U\+DFFF at position 0"):
        small.encode_batch(["", "\udfff"])


def test_equal_tokenizers_are_equal(small: Tokenizer, chinese: Tokenizer) -> None:
    again = Tokenizer.from_json(small.to_json())
    assert again == small
    assert hash(again) == hash(small)
    assert again.fingerprint == small.fingerprint
    assert len(small.fingerprint) == 64
    assert small != chinese
    assert small != "tokenizer"
    assert "vocab_size=600" in repr(small)


@pytest.mark.parametrize("name", ["small", "chinese", "characters"])
def test_json_config_pickle_and_copy(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    made = [
        Tokenizer.from_json(tokenizer.to_json()),
        Tokenizer.from_config(json.loads(json.dumps(tokenizer.get_config()))),
        pickle.loads(pickle.dumps(tokenizer)),
        copy.deepcopy(tokenizer),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(tokenizer)),
    ]
    for other in made:
        assert other == tokenizer
        assert other.encode("Hello") == tokenizer.encode("Hello")
        assert other.special_tokens == tokenizer.special_tokens
        assert other.level == tokenizer.level


def test_the_parts_must_fit_together() -> None:
    vocabulary = {character: index for index, character in enumerate(byte_characters())}
    assert Tokenizer(vocabulary).vocab_size == 257
    assert Tokenizer(vocabulary, special_tokens=()).encode("é") == [195, 169]
    with pytest.raises(ValueError, match="byte 0x41"):
        Tokenizer({token: i for token, i in vocabulary.items() if token != "A"} | {"AA": 65})
    with pytest.raises(ValueError, match=r"merges\[0\]='a' 'b'"):
        Tokenizer(vocabulary, [("a", "b")])
    with pytest.raises(ValueError, match=r"must be 0\.\.256, each once"):
        Tokenizer(vocabulary | {"ab": 300}, special_tokens=())
    with pytest.raises(ValueError, match="byte characters"):
        Tokenizer(vocabulary | {"a b": 256})
    with pytest.raises(ValueError, match="level must be"):
        Tokenizer(vocabulary, level="word")
    with pytest.raises(ValueError, match="one character"):
        Tokenizer({"ab": 0}, level="character")
    with pytest.raises(ValueError, match="no merges"):
        Tokenizer({"a": 0, "b": 1}, [("a", "b")], level="character")
    with pytest.raises(TypeError, match="not one"):
        Tokenizer(vocabulary, special_tokens="<|endoftext|>")
    with pytest.raises(ValueError, match="must differ"):
        Tokenizer(vocabulary, special_tokens=["<a>", "<a>"])
    with pytest.raises(ValueError, match="must not be empty"):
        Tokenizer(vocabulary, special_tokens=[""])
    with pytest.raises(ValueError, match="must not be special tokens too"):
        Tokenizer(vocabulary, special_tokens=["<a>"], added_tokens=["<a>"])
    with pytest.raises(ValueError, match='split must be one of "gpt2", "digits"'):
        Tokenizer(vocabulary, split="words")
    with pytest.raises(ValueError, match='only level="byte" has another split'):
        Tokenizer({"a": 0}, level="character", split="digits")
    with pytest.raises(ValueError, match='only level="byte" has ignore_merges and nfc'):
        Tokenizer({"a": 0}, level="character", ignore_merges=True)
    with pytest.raises(ValueError, match="to train a tokenizer"):
        Tokenizer.train_from_texts(["text"], level="gpt1")


def test_import_is_light_and_needs_no_tensorflow() -> None:
    """The room itself loads neither library, and encoding works where TensorFlow cannot load."""
    program = """
import sys
sys.modules["tensorflow"] = None
import keras_gpt.tokenizers
assert "tokenizers" not in sys.modules
from keras_gpt.tokenizers import Tokenizer
tokenizer = Tokenizer.train_from_texts(["some text, some words"], 260)
assert "tensorflow.python" not in sys.modules
print(tokenizer.decode(tokenizer.encode("fine")))
"""
    pytest.importorskip("jax", reason="Keras needs another backend than TensorFlow for this")
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "fine\n", done.stderr
