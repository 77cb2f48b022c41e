"""gguf's number formats, those that llama.cpp's tools write and ours does not included."""

from pathlib import Path
from typing import Any

import gguf
import keras
import numpy as np
import pytest
from gpt_cases import make_gpt, small_tokenizer

from keras_gpt import GPT, Tokenizer
from keras_gpt.checkpoints.gguf_reader import read_gguf
from keras_gpt.generation_settings import GenerationSettings
from keras_gpt.tokenizers.byte_alphabet import byte_characters

KINDS = gguf.GGMLQuantizationType
WIDTH, INNER, HEADS, VOCABULARY = 256, 512, 2, 19


def _llama_file(path: Path, kind: Any, **extra: np.ndarray) -> dict[str, np.ndarray]:
    """Write a Llama of one layer through llama.cpp's own writer; give the bytes of its matrices.

    The library reads the K formats and does not make them, so their blocks are random bytes.
    """
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    shapes = {"token_embd": (VOCABULARY, WIDTH)}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.0.{name}"] = (WIDTH, WIDTH)
    shapes |= {"blk.0.ffn_gate": (INNER, WIDTH), "blk.0.ffn_up": (INNER, WIDTH)}
    shapes["blk.0.ffn_down"] = (WIDTH, INNER)
    raw = {}
    for name, shape in shapes.items():
        try:
            values = rng.standard_normal(shape).astype("float32")
            raw[name] = gguf.quantize(values, kind).view("uint8")
        except NotImplementedError:
            size = gguf.quant_shape_to_byte_shape(shape, kind)
            raw[name] = rng.integers(0, 60, size).astype("uint8")
        writer.add_tensor(f"{name}.weight", raw[name], raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, "float32"))
    for name, value in extra.items():
        writer.add_tensor(name.replace("__", "."), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return raw


@pytest.mark.parametrize(
    "kind",
    ["BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"],
)
def test_each_format_gives_the_library_s_numbers_in_our_places(tmp_path: Path, kind: str) -> None:
    """Queries and keys turned from neighbours to halves, row by row; the others transposed."""
    raw = _llama_file(tmp_path / "model.gguf", KINDS[kind])
    theirs = {name: gguf.dequantize(value, KINDS[kind]) for name, value in raw.items()}
    ours = {name: each.read() for name, each in read_gguf(tmp_path / "model.gguf").tensors.items()}
    head = WIDTH // HEADS
    # Our row i of a head is their row 2i in the first half, and 2i + 1 in the second.
    rows = [
        start + 2 * (i % (head // 2)) + (i >= head // 2)
        for start in range(0, WIDTH, head)
        for i in range(head)
    ]
    q, k, v = (theirs[f"blk.0.attn_{name}"] for name in "qkv")
    expected = {
        "token_embedding/embeddings": theirs["token_embd"],
        "block_0/attention/qkv/kernel": np.concatenate([q[rows], k[rows], v]).T,
        "block_0/attention/projection/kernel": theirs["blk.0.attn_output"].T,
        "block_0/feed_forward/gate/kernel": theirs["blk.0.ffn_gate"].T,
        "block_0/feed_forward/up/kernel": theirs["blk.0.ffn_up"].T,
        "block_0/feed_forward/down/kernel": theirs["blk.0.ffn_down"].T,
    }
    for name, value in expected.items():
        assert len(np.unique(value)) > 4, name
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.parametrize("kind", ["I8", "I16", "I32", "F64"])
def test_numbers_that_are_no_weights_are_refused(tmp_path: Path, kind: str) -> None:
    """When the file is opened, not when the weights of half a model are there."""
    _llama_file(tmp_path / "model.gguf", KINDS[kind])
    with pytest.raises(ValueError, match=rf"model\.gguf.*token_embd\.weight.*type {kind}"):
        read_gguf(tmp_path / "model.gguf")


def test_rotary_factors_that_are_not_metas_are_refused(tmp_path: Path) -> None:
    """Ones change nothing; others stretch the positions in a way that no config of ours says."""
    factors = np.ones(WIDTH // HEADS // 2, "float32")
    _llama_file(tmp_path / "model.gguf", KINDS.F16, rope_freqs__weight=factors)
    names = set(read_gguf(tmp_path / "model.gguf").tensors)
    _llama_file(tmp_path / "plain.gguf", KINDS.F16)
    assert names == set(read_gguf(tmp_path / "plain.gguf").tensors)
    factors[-1] = 8.0
    _llama_file(tmp_path / "model.gguf", KINDS.F16, rope_freqs__weight=factors)
    with pytest.raises(ValueError, match=r"model\.gguf.*extra \['rope_freqs\.weight'\]"):
        read_gguf(tmp_path / "model.gguf")


def test_a_bias_that_our_layers_have_not_is_refused(tmp_path: Path) -> None:
    """By its name."""
    bias = np.zeros(WIDTH, "float32")
    _llama_file(tmp_path / "model.gguf", KINDS.F16, blk__0__attn_q__bias=bias)
    with pytest.raises(ValueError, match=r"model\.gguf.*extra \['blk\.0\.attn_q\.bias'\]"):
        read_gguf(tmp_path / "model.gguf")


# Writing


@pytest.mark.parametrize(("dtype", "largest"), [("f16", 7e4), ("q8_0", 1e7)], ids=["f16", "q8_0"])
def test_a_weight_that_would_become_infinite_is_refused(
    tmp_path: Path, dtype: str, largest: float
) -> None:
    """By the tensor's name, and no file is left; float32 takes it."""
    gpt = make_gpt()
    kernel = next(each for each in gpt.weights if "feed_forward/up/kernel" in each.path)
    value = keras.ops.convert_to_numpy(kernel.value).copy()
    value[2, 1] = -largest  # (outputs, inputs)
    kernel.assign(value)
    with pytest.raises(ValueError, match=r"dtype='f32'.*ffn_up\.weight with"):
        gpt.save_to_gguf(tmp_path / "model.gguf", dtype=dtype)
    assert not list(tmp_path.iterdir())
    gpt.save_to_gguf(tmp_path / "model.gguf", dtype="f32")
    stored = read_gguf(tmp_path / "model.gguf").tensors
    assert stored["block_0/feed_forward/up/kernel"].read()[1, 2] == np.float32(-largest)


def test_stop_ids_beyond_the_format_s_places_are_left_out_with_a_warning(tmp_path: Path) -> None:
    """It has three, and the first is the one that is called eos."""
    tokenizer = small_tokenizer()
    settings = GenerationSettings(stop_token_ids=(9, 8, 7, 6), eos_token=tokenizer.id_to_token(8))
    gpt = make_gpt(vocab_size=tokenizer.vocab_size)
    gpt.tokenizer, gpt.generation_settings = tokenizer, settings
    with pytest.warns(UserWarning, match=r"\[6\]"):
        gpt.save_to_gguf(tmp_path / "model.gguf")
    same = GPT.from_preset(tmp_path / "model.gguf").generation_settings
    assert same.stop_token_ids == (8, 9, 7)
    assert same.eos_token == settings.eos_token


@pytest.mark.parametrize("name", ["ignore_merges", "nfc"])
def test_a_tokenizer_that_would_give_other_ids_is_refused(tmp_path: Path, name: str) -> None:
    """llama.cpp has these two only with the splits of Llama 3 and Qwen 2."""
    old = small_tokenizer()
    vocabulary = {old.id_to_token(index): index for index in range(old.vocab_size)}
    options: dict[str, Any] = {name: True}
    gpt = make_gpt(vocab_size=old.vocab_size)
    gpt.tokenizer = Tokenizer(vocabulary, old.merges, **options)
    with pytest.raises(ValueError, match=f"{name}=True"):
        gpt.save_to_gguf(tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_without_merges_is_refused(tmp_path: Path) -> None:
    """The library leaves an empty list out, and then nobody reads the file."""
    vocabulary = {character: index for index, character in enumerate(byte_characters())}
    gpt = make_gpt(vocab_size=257)
    gpt.tokenizer = Tokenizer(vocabulary)
    with pytest.raises(ValueError, match="without merges"):
        gpt.save_to_gguf(tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
