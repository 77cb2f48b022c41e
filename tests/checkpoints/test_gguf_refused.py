"""gguf files that are damaged byte by byte, or that ask for what our layers do not have."""

import struct
import warnings
from pathlib import Path
from typing import Any

import pytest
from gpt_cases import small_tokenizer

from keras_gpt import GPT
from keras_gpt.checkpoints.gguf_header import read_header
from keras_gpt.checkpoints.gguf_reader import read_gguf
from keras_gpt.checkpoints.gguf_tokenizer import read_tokenizer

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {
        "normalization": "rms_norm",
        "positions": "rotary",
        "feed_forward": "gated",
        "activation": "silu",
        "use_bias": False,
    },
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def good(family: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole file with one layer and a tokenizer."""
    tokenizer = small_tokenizer()
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    fields: dict[str, Any] = {"context_length": 16, **FAMILIES[family]}
    gpt = GPT(tokenizer.vocab_size, 32, 2, 48, 1, tokenizer=tokenizer, **fields)
    gpt.save_to_gguf(file, dtype="q8_0")
    return file.read_bytes()


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _value(value: Any) -> bytes:
    """Write a setting's type and value."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    return struct.pack("<I", 8) + _text(value)


def _with_setting(data: bytes, name: str, value: Any) -> bytes:
    """Put a setting in front of the others; an older one of that name gets another name."""
    data = data.replace(_text(name), _text(name[:-1] + "~"))
    added = _text(name) + _value(value)
    # The tensors' data begins at a multiple of 32, so a second setting fills up to one.
    filler = _text(f"filler of {name}") + struct.pack("<I", 8)
    added += filler + _text("x" * (-(len(added) + len(filler) + 8) % 32))
    count = int.from_bytes(data[16:24], "little") + 2
    return data[:16] + struct.pack("<Q", count) + added + data[24:]


def test_an_added_setting_that_says_nothing_new_is_read(
    tmp_path: Path, good: bytes, family: str
) -> None:
    """So that the tests below fail for the reason that they name."""
    file = tmp_path / "same.gguf"
    file.write_bytes(_with_setting(good, f"{family}.attention.causal", True))
    assert GPT.from_preset(file).tokenizer == small_tokenizer()


BOTH = {
    "attention.causal": (False, "attention.causal=False"),
    "attention.key_length": (8, "attention.key_length=8"),
    "attention.value_length": (8, "attention.value_length=8"),
    "attention.sliding_window": (4, "attention.sliding_window=4"),
    "expert_count": (8, "expert_count=8"),
    "block_count": (2**32 - 1, "block_count must be.*4294967295"),
}
ROTARY = {
    "rope.dimension_count": (8, "rope.dimension_count=8"),
    "rope.scaling.type": ("longrope", "rope.scaling.type='longrope'"),
    # Without a type, llama.cpp scales linearly.
    "rope.scaling.factor": (0.5, "linear': factor must be 1 or more.*factor=0.5"),
    "rope.scale_linear": (0.5, "linear': factor must be 1 or more.*factor=0.5"),
    "rope.scaling.attn_factor": (0.5, "attn_factor=0.5"),
    "rope.freq_base": (1e300, "rope.freq_base must be a finite.*1e.300"),
}


def _check_refusal(folder: Path, data: bytes, name: str, value: Any, message: str) -> None:
    file = folder / "other.gguf"
    file.write_bytes(_with_setting(data, name, value))
    with pytest.raises(ValueError, match=rf"other\.gguf.*{message}"):
        read_gguf(file)


@pytest.mark.parametrize("name", BOTH)
def test_a_setting_that_our_layers_have_not_is_refused_by_name(
    tmp_path: Path, good: bytes, family: str, name: str
) -> None:
    """With the file's name."""
    _check_refusal(tmp_path, good, f"{family}.{name}", *BOTH[name])


@pytest.mark.parametrize("family", ["llama"], indirect=True)
@pytest.mark.parametrize("name", ROTARY)
def test_other_rotary_positions_are_refused_by_name(tmp_path: Path, good: bytes, name: str) -> None:
    """Those that are scaled in a way we have not, or turn a part of each head."""
    _check_refusal(tmp_path, good, f"llama.{name}", *ROTARY[name])


@pytest.mark.parametrize("family", ["llama"], indirect=True)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("yarn_ext_factor", 0.5, "yarn_ext_factor=0.5"),
        ("yarn_log_multiplier", 0.1, "yarn_log_multiplier=0.1"),
        ("yarn_attn_factor", 1.2, "yarn_attn_factor=1.2"),
        ("yarn_beta_fast", 1.0, "beta_fast=1.0, beta_slow=1.0"),
        ("attn_factor", -1.0, "attention_factor=-"),
        ("original_context_length", "x", "original_context_length='x'"),
        ("original_context_length", 1, "original_context_length=1, beta_fast=32.0"),
    ],
)
def test_yarn_that_is_not_ours_is_refused_by_name(
    tmp_path: Path, good: bytes, name: str, value: Any, message: str
) -> None:
    """Each alone, in a file whose scaling is read otherwise."""
    yarn = good
    for other, given in (("type", "yarn"), ("factor", 4.0)):
        yarn = _with_setting(yarn, f"llama.rope.scaling.{other}", given)
    (tmp_path / "same.gguf").write_bytes(yarn)
    assert read_gguf(tmp_path / "same.gguf").config["rotary_scaling"]["method"] == "yarn"
    _check_refusal(tmp_path, yarn, f"llama.rope.scaling.{name}", value, message)


@pytest.mark.parametrize("family", ["llama"], indirect=True)
def test_scaling_that_changes_nothing_is_read(tmp_path: Path, good: bytes) -> None:
    """A factor of 1 or 0, or any with the type "none"."""
    file = tmp_path / "same.gguf"
    unused = _with_setting(good, "llama.rope.scaling.factor", 4.0)
    for data in (
        _with_setting(good, "llama.rope.scaling.factor", 1.0),
        _with_setting(good, "llama.rope.scaling.factor", 0.0),
        _with_setting(unused, "llama.rope.scaling.type", "none"),
    ):
        file.write_bytes(data)
        assert read_gguf(file).config["rotary_scaling"] is None


@pytest.mark.parametrize("family", ["llama"], indirect=True)
@pytest.mark.parametrize("name", ["rope.scaling.factor", "rope.scale_linear"])
def test_scaling_without_a_type_is_linear(tmp_path: Path, good: bytes, name: str) -> None:
    """Under its name, or the older one."""
    (tmp_path / "model.gguf").write_bytes(_with_setting(good, f"llama.{name}", 4.0))
    read = read_gguf(tmp_path / "model.gguf").config["rotary_scaling"]
    assert read == {"method": "linear", "factor": 4.0}


def _header_of(folder: Path, data: bytes) -> Any:
    file = folder / "read.gguf"
    file.write_bytes(data)
    return read_header(file)


def test_a_part_of_several_is_refused(tmp_path: Path, good: bytes) -> None:
    """It says how to join them."""
    file = tmp_path / "part.gguf"
    file.write_bytes(_with_setting(good, "split.count", 3))
    with pytest.raises(ValueError, match=r"gguf-split --merge.*split\.count=3"):
        read_gguf(file)


def test_tokens_and_rows_must_be_as_many(tmp_path: Path, good: bytes) -> None:
    """A vocabulary that lost a token would shift all ids."""
    name = _text("tokenizer.ggml.tokens")
    at = good.index(name) + len(name) + 4 + 4
    count = int.from_bytes(good[at : at + 8], "little")
    # The first two tokens, one byte each, become one of as many bytes with their lengths.
    two = good[at + 8 : at + 8 + 18]
    assert two[:8] == two[9:17] == struct.pack("<Q", 1)
    one = _text("x" * 10)
    file = tmp_path / "other.gguf"
    file.write_bytes(good[:at] + struct.pack("<Q", count - 1) + one + good[at + 8 + 18 :])
    with pytest.raises(ValueError, match=f"one entry for each row.*{count - 1} and {count}"):
        read_gguf(file)


# Tokenizers


def test_a_model_with_a_sentencepiece_tokenizer_comes_without_it(
    tmp_path: Path, good: bytes
) -> None:
    """And with a warning that says so."""
    file = tmp_path / "model.gguf"
    file.write_bytes(_with_setting(good, "tokenizer.ggml.model", "llama"))
    with pytest.warns(UserWarning, match="SentencePiece.*without a tokenizer"):
        checkpoint = read_gguf(file)
    assert checkpoint.tokenizer is None
    assert checkpoint.tensors["token_embedding/embeddings"].read().shape[1] == 32


def test_an_older_file_says_no_split_of_text(tmp_path: Path, good: bytes, family: str) -> None:
    """GPT-2's is known then; a Llama's is not, and llama.cpp's "default" is nobody's."""
    older = dict(_header_of(tmp_path, good).fields)
    assert older.pop("tokenizer.ggml.pre") == "gpt-2"
    if family == "gpt2":
        assert read_tokenizer(older) == small_tokenizer()
    else:
        with pytest.raises(ValueError, match=r"tokenizer\.ggml\.pre=None"):
            read_tokenizer(older)
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.pre='default'"):
        read_tokenizer({**older, "tokenizer.ggml.pre": "default"})


# Every place


def test_damage_at_any_place_is_an_error_that_names_the_file(tmp_path: Path, good: bytes) -> None:
    """Each byte of the header changed in three ways, and 300 cuts: nothing else is ever raised."""
    file = tmp_path / "damaged.gguf"
    end = min(place.start for place in _header_of(tmp_path, good).tensors.values())
    # The list of tokens is long and alike; one place in nine stands for it.
    first, last = (good.index(name) for name in (b"ggml.tokens", b"ggml.merges"))
    places = [at for at in range(end) if at % 9 == 0 or not first + 60 < at < last - 60]
    damaged = [
        good[:at] + bytes([value]) + good[at + 1 :]
        for at in places
        for value in {0xFF, good[at] ^ 1, good[at] ^ 0x80} - {good[at]}
    ]
    damaged += [good[:at] for at in range(0, len(good), len(good) // 300)]
    read, refusals = 0, []
    for data in damaged:
        file.write_bytes(data)
        try:
            checkpoint = read_gguf(file)
            for tensor in checkpoint.tensors.values():
                assert tensor.read().shape == tensor.shape
            read += 1
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > read > 0
    assert [each for each in refusals if str(file) not in each] == []


def test_damaged_weights_are_read_without_a_word(tmp_path: Path, good: bytes) -> None:
    """The format has no checksum: scales that became infinite give infinite weights."""
    end = min(place.start for place in _header_of(tmp_path, good).tensors.values())
    file = tmp_path / "damaged.gguf"
    file.write_bytes(good[:end] + b"\xff\x7c" * ((len(good) - end) // 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tensor in read_gguf(file).tensors.values():
            assert tensor.read().shape == tensor.shape
