"""gguf files: exact in float32, within the format's rounding otherwise, damaged ones refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gpt_cases import logits_of, make_gpt, random_ids, small_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from keras_gpt import GPT, Tokenizer
from keras_gpt.checkpoints.gguf_header import read_header
from keras_gpt.checkpoints.gguf_tokenizer import read_tokenizer
from keras_gpt.generation_settings import GenerationSettings

LLAMA = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "activation": "silu",
    "use_bias": False,
}
CASES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2-untied": {"tie_embeddings": False, "norm_epsilon": 1e-6},
    "llama": {**LLAMA, "num_kv_heads": 2, "rotary_base": 500.0},
    "llama-one-kv-head": {**LLAMA, "num_kv_heads": 1, "vocab_size": 101},
    "llama-untied": {**LLAMA, "tie_embeddings": False},
}


def _value(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)


def _published(gpt: GPT) -> dict[str, Any]:
    """Give the config without what the format has no place for, or says in another way."""
    fields = {**gpt.config.to_dict(), "num_kv_heads": gpt.config.key_value_heads}
    fields.pop("initializer_range")
    return fields


def _whole(**fields: Any) -> GPT:
    """Make a model with everything that travels."""
    tokenizer = small_tokenizer()
    settings = GenerationSettings(
        stop_token_ids=(3, 5, 6),
        temperature=0.3,
        top_k=40,
        top_p=0.9,
        chat_template="{{ messages }}",
        bos_token=tokenizer.id_to_token(7),
        eos_token=tokenizer.id_to_token(3),
        pad_token=tokenizer.id_to_token(9),
    )
    size = tokenizer.vocab_size + 3  # more rows than tokens, as real models have
    return GPT(
        size,
        36,
        3,
        70,
        2,
        context_length=24,
        tokenizer=tokenizer,
        generation_settings=settings,
        **fields,
    )


# There and back


@pytest.mark.parametrize("name", CASES)
def test_float32_returns_bit_for_bit(tmp_path: Path, name: str) -> None:
    """Weights and config."""
    gpt = make_gpt(**CASES[name])
    gpt.save_to_gguf(tmp_path / "model.gguf", dtype="f32")
    same = GPT.from_preset(tmp_path / "model.gguf")
    assert _published(same) == _published(gpt)
    assert same.tokenizer is None
    for a, b in zip(gpt.weights, same.weights, strict=True):
        np.testing.assert_array_equal(_value(a), _value(b), err_msg=a.path)


@pytest.mark.parametrize("fields", [{}, {**LLAMA, "num_kv_heads": 1}], ids=["gpt2", "llama"])
def test_tokenizer_and_settings_travel(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Odd widths, more rows than tokens, special tokens, stop ids, template."""
    gpt = _whole(**fields)
    gpt.save_to_gguf(tmp_path / "model.gguf", dtype="f32")
    same = GPT.from_preset(tmp_path / "model.gguf")
    assert _published(same) == _published(gpt)
    assert same.tokenizer == gpt.tokenizer
    assert same.generation_settings == gpt.generation_settings
    assert same.generate("the cat", seed=1, max_new_tokens=9) == gpt.generate(
        "the cat", seed=1, max_new_tokens=9
    )


@pytest.mark.parametrize("split", ["gpt2", "digits", "llama3", "qwen2"])
def test_each_split_of_text_travels(tmp_path: Path, split: Any) -> None:
    """By llama.cpp's name of it."""
    old = small_tokenizer()
    vocabulary = {old.id_to_token(index): index for index in range(old.vocab_size)}
    tokenizer = Tokenizer(
        vocabulary,
        old.merges,
        split=split,
        ignore_merges=split == "llama3",
        nfc=split == "qwen2",
    )
    gpt = make_gpt(vocab_size=tokenizer.vocab_size)
    gpt.tokenizer = tokenizer
    gpt.save_to_gguf(tmp_path / "model.gguf", dtype="f32")
    assert GPT.from_preset(tmp_path / "model.gguf").tokenizer == tokenizer


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_smaller_formats_round_as_they_say(tmp_path: Path, name: str, dtype: str) -> None:
    """f16: half a unit of 2^-11; q8_0: half a step of 1/127 of each block's largest, whose scale is f16."""
    gpt = make_gpt(**CASES[name])
    gpt.save_to_gguf(tmp_path / "model.gguf", dtype=dtype)
    same = GPT.from_preset(tmp_path / "model.gguf")
    for a, b in zip(gpt.weights, same.weights, strict=True):
        before, after = _value(a), _value(b)
        if before.ndim == 1 or "position" in a.path:
            np.testing.assert_array_equal(before, after, err_msg=a.path)
        elif dtype == "f16":
            np.testing.assert_allclose(after, before, rtol=2**-11, atol=2**-25, err_msg=a.path)
        else:
            # Blocks lie along the rows of the file, each an output's weights or a token's vector.
            is_turned = a.path.endswith("/reverse_embeddings")
            rows, there = (before.T, after.T) if is_turned else (before, after)
            blocks = rows.reshape(-1, 32)
            largest = np.abs(blocks).max(1, keepdims=True)
            bound = largest * (0.5 / 127 + 2**-11)
            assert (np.abs(there.reshape(-1, 32) - blocks) <= bound).all(), a.path


def test_rows_that_are_no_whole_blocks_stay_in_f16(tmp_path: Path) -> None:
    """Width 36 has no blocks of 32."""
    _whole().save_to_gguf(tmp_path / "model.gguf", dtype="q8_0")
    kinds = {
        name: place.kind.name
        for name, place in read_header(tmp_path / "model.gguf").tensors.items()
    }
    assert kinds["blk.0.attn_qkv.weight"] == "F16"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


@pytest.mark.parametrize("name", CASES)
def test_the_format_s_own_library_reads_the_file(tmp_path: Path, name: str) -> None:
    """`gguf.GGUFReader`, which llama.cpp's tools use: same names, shapes and numbers."""
    gguf = pytest.importorskip("gguf")
    make_gpt(**CASES[name]).save_to_gguf(tmp_path / "model.gguf", dtype="f32")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    header = read_header(tmp_path / "model.gguf")
    assert {tensor.name for tensor in reader.tensors} == set(header.tensors)
    for tensor in reader.tensors:
        place = header.tensors[tensor.name]
        assert tuple(reversed(tensor.shape.tolist())) == place.shape
        assert (int(tensor.data_offset), int(tensor.n_bytes)) == (place.start, place.size)
    for field, value in header.fields.items():
        assert reader.fields[field].contents() == value, field


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "heads", "inner"),
    [
        ("gpt2", 4, 128),
        ("gpt2", 1, 128),
        ("llama", 4, 70),
        ("llama-one-kv-head", 4, 128),
        ("llama-one-kv-head", 1, 70),
        ("llama-untied", 2, 70),
    ],
)
def test_transformers_reads_the_file(tmp_path: Path, name: str, heads: int, inner: int) -> None:
    """With `gguf_file=`, and gives the same logits; the vocabulary is no multiple of 8.

    Its reader of GPT-2 takes context and inner width for granted, and the vocabulary's size from
    the tokenizer.
    """
    pytest.importorskip("accelerate")  # transformers reads GGUF files with it
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    tokenizer = small_tokenizer()
    assert tokenizer.vocab_size % 8
    fields = {**CASES[name], "vocab_size": tokenizer.vocab_size, "context_length": 1024}
    gpt = GPT(
        embedding_dim=32,
        num_heads=heads,
        feed_forward_dim=inner,
        num_layers=3,
        tokenizer=tokenizer,
        initializer_range=0.2,
        **fields,
    )
    gpt.save_to_gguf(tmp_path / "model.gguf", dtype="f32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    ).eval()
    ids = random_ids(2, 20)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    assert np.abs(logits_of(gpt, ids) - expected).max() < 2e-4


# What cannot be kept


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"norm_placement": "post"}, "norm_placement"),
        ({"positions": "sinusoidal"}, "positions"),
        ({"activation": "relu"}, "activation"),
        ({"attention_windows": (None, 4)}, "attention_windows"),
        ({"num_kv_heads": 2}, "key_value_heads"),
        ({**LLAMA, "activation": "gelu"}, "activation"),
    ],
)
def test_what_the_format_has_not_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    """And nothing is written."""
    with pytest.raises(ValueError, match=named):
        make_gpt(**fields).save_to_gguf(tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    """A format that is not written, a tokenizer that is not kept, a file that is there."""
    gpt = make_gpt()
    with pytest.raises(ValueError, match="dtype='q4_0'"):
        gpt.save_to_gguf(tmp_path / "model.gguf", dtype="q4_0")
    gpt.tokenizer = Tokenizer.train_from_texts(["abc"], level="character")
    with pytest.raises(ValueError, match="level='character'"):
        gpt.save_to_gguf(tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
    (tmp_path / "model.gguf").write_text("mine")
    gpt.tokenizer = None
    with pytest.raises(FileExistsError, match=r"overwrite=True.*model\.gguf"):
        gpt.save_to_gguf(tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_text() == "mine"
    gpt.save_to_gguf(tmp_path / "model.gguf", overwrite=True)
    GPT.from_preset(tmp_path / "model.gguf")


# What is damaged


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    _whole(**LLAMA).save_to_gguf(file, dtype="f16")
    return file.read_bytes()


def _replace(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


def _number(name: str, value: int, width: int = 4) -> Callable[[bytes], bytes]:
    """Change a setting that is one integer."""

    def change(data: bytes) -> bytes:
        at = data.index(name.encode()) + len(name) + 4
        return data[:at] + value.to_bytes(width, "little") + data[at + width :]

    return change


def _offset(data: bytes, value: int) -> bytes:
    """Change where the first tensor lies: after its name, dimensions and type."""
    name = b"token_embd.weight"
    at = data.index(name) + len(name) + 4 + 16 + 4
    return data[:at] + value.to_bytes(8, "little") + data[at + 8 :]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut short": (lambda d: d[:-1000], "damaged or cut short.*ends at byte"),
    "cut in the header": (lambda d: d[:200], "damaged or cut short"),
    "empty": (lambda d: b"", "an empty file"),
    "another version": (lambda d: d[:4] + b"\x09\0\0\0" + d[8:], "version 9"),
    "absurd tensor count": (lambda d: d[:8] + b"\xff" * 8 + d[16:], "tensors should follow"),
    "absurd setting count": (lambda d: d[:16] + b"\xff" * 8 + d[24:], "settings should follow"),
    "offset beyond the end": (lambda d: _offset(d, 2**40), "ends at byte"),
    "offset between two numbers": (lambda d: _offset(d, 1), "no multiple of 32"),
    "tensors over each other": (lambda d: _offset(d, 4096), "lies over"),
    "another architecture": (
        lambda d: _replace(d, b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0falco"),
        "general.architecture='falco'",
    ),
    "a tensor by another name": (
        lambda d: _replace(d, b"blk.1.ffn_up.weight", b"blk.1.ffn_ab.weight"),
        r"missing \['blk.1.ffn_up.weight'\], extra \['blk.1.ffn_ab.weight'\]",
    ),
    "another inner width": (_number("llama.feed_forward_length", 69), "of another shape"),
    "heads that do not divide": (
        _number("llama.attention.head_count", 5),
        "head_count must divide",
    ),
    "no heads": (_number("llama.attention.head_count", 0), "head_count must divide"),
    "half of a head turned": (_number("llama.rope.dimension_count", 6), "rope.dimension_count"),
    "a setting by another name": (
        lambda d: _replace(d, b"llama.block_count", b"llama.block_coxxx"),
        "llama.block_count",
    ),
    "an unknown split of text": (lambda d: _replace(d, b"gpt-2", b"gpt-9"), "'gpt-9'"),
    "an unknown tokenizer": (
        lambda d: _replace(d, b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0bert"),
        "'bert'",
    ),
    "a tokenizer without merges": (
        lambda d: _replace(d, b"tokenizer.ggml.merges", b"tokenizer.ggml.merxxx"),
        "tokenizer.ggml.merges",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused(tmp_path: Path, good: bytes, name: str) -> None:
    """With the reason, before a model is made."""
    change, message = DAMAGE[name]
    file = tmp_path / "bad.gguf"
    file.write_bytes(change(good))
    error: type[Exception] = ValueError
    if name == "empty":
        message = "GGUF format"
    with pytest.raises(error, match=message):
        GPT.from_preset(file)


@given(st.data())
def test_any_damage_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, good: bytes, data: st.DataObject
) -> None:
    """A few bytes of the header changed, or the end cut off: ValueError, and nothing else."""
    from keras_gpt.checkpoints.gguf_reader import read_gguf

    header_end = good.index(b"output_norm.weight")
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(4, header_end))
        changed[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(4, len(changed))) :]
    file = tmp_path_factory.getbasetemp() / "fuzz.gguf"
    file.write_bytes(bytes(changed))
    try:
        checkpoint = read_gguf(file)
        for tensor in checkpoint.tensors.values():
            assert tensor.read().shape == tensor.shape
    except ValueError:
        pass


def test_a_file_that_may_not_be_read(tmp_path: Path, good: bytes) -> None:
    """The system's own refusal comes through."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    file = tmp_path / "model.gguf"
    file.write_bytes(good)
    file.chmod(0)
    with pytest.raises(PermissionError):
        GPT.from_preset(file)


# Real files


def test_llama_cpp_s_own_vocabulary_file(shared_data: Path) -> None:
    """Its tokenizer gives the ids that llama.cpp's tests expect; there is no model in it."""
    folder = shared_data / "bpe" / "gpt2"
    file = folder / "ggml-vocab-gpt-2.gguf"
    tokenizer = read_tokenizer(read_header(file).fields)
    assert tokenizer is not None
    texts = (folder / "ggml-vocab-gpt-2.gguf.inp").read_text(encoding="utf-8")
    rows = (folder / "ggml-vocab-gpt-2.gguf.out").read_text().splitlines()
    cases = texts.split("\n__ggml_vocab_test__\n")
    assert len(cases) >= len(rows) > 40
    for text, row in zip(cases, rows, strict=False):
        assert tokenizer.encode(text) == [int(each) for each in row.split()], text
    with pytest.raises(ValueError, match="vocabulary only"):
        GPT.from_preset(file)


def test_a_model_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    """The place is checked first, and made only when there is something to put there."""
    with pytest.raises(ValueError, match="sinusoidal"):
        make_gpt(positions="sinusoidal").save_to_gguf(tmp_path / "new" / "model.gguf")
    with pytest.raises(IsADirectoryError, match="a folder stands there"):
        make_gpt().save_to_gguf(tmp_path, overwrite=True)
    assert not list(tmp_path.iterdir())
