"""Copies of matrices in oneDNN's order: who reads them, and that they are as the weights are."""

import keras
import numpy as np
import pytest
from gpt_cases import random_ids

from keras_gpt import GPT
from keras_gpt.checkpoints import checkpoint
from keras_gpt.generation import reordered
from keras_gpt.generation.steps import decode_steps
from keras_gpt.layers.few_rows import ALONE
from keras_gpt.onednn import PARTS, takes_reordered

VOCAB_SIZE, WIDTH, INNER = 2048, 128, 256
OF_BLOCK = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (INNER, WIDTH), (WIDTH, INNER)]
OF_MODEL = [*OF_BLOCK, *OF_BLOCK, (VOCAB_SIZE, WIDTH)]
pytestmark = pytest.mark.skipif(
    not takes_reordered(PARTS * 8, VOCAB_SIZE, WIDTH, "int8"),
    reason="oneDNN multiplies no such copies here",
)
OF_BFLOAT16 = pytest.mark.skipif(
    not takes_reordered(8, VOCAB_SIZE, WIDTH, "bfloat16"),
    reason="oneDNN multiplies no such copies of bfloat16 here",
)
ASK = {"max_new_tokens": 6, "temperature": 0}


def int8_gpt(seed=0, **fields):
    keras.utils.set_random_seed(seed)
    gpt = GPT(VOCAB_SIZE, WIDTH, 4, INNER, 2, context_length=64, initializer_range=0.2, **fields)
    gpt.quantize("int8")
    return gpt


def bfloat16_gpt(seed=0, **fields):
    keras.utils.set_random_seed(seed)
    more = {"context_length": 64, "initializer_range": 0.2, "dtype": "bfloat16", **fields}
    return GPT(VOCAB_SIZE, WIDTH, 4, INNER, 2, **more)


def those_read(shapes, rows, dtype):
    return sorted(shape for shape in shapes if takes_reordered(rows, *shape, dtype))


def prompts(rows):
    return [random_ids(5 + row, seed=row).tolist() for row in range(rows)]


@pytest.fixture
def copied(monkeypatch):
    """The shapes of the matrices that copies were made of."""
    shapes = []
    real = reordered.reordered

    def counted(matrix):
        shapes.append(matrix.shape)
        return real(matrix)

    monkeypatch.setattr(reordered, "reordered", counted)
    return shapes


@pytest.mark.parametrize("tied", [True, False])
def test_only_batches_make_copies_and_make_each_once(copied, tied):
    gpt = int8_gpt(tie_embeddings=tied)
    gpt.generate(prompts(1), **ASK)
    gpt.generate(prompts(4), **ASK)
    assert not copied
    answers = gpt.generate(prompts(5), **ASK)
    read = those_read(OF_MODEL, PARTS * 8, "int8")
    assert sorted(copied) == read
    gpt.generate(prompts(8), **ASK)
    assert len(copied) == len(read)
    assert answers == [gpt.generate([prompt], **ASK)[0] for prompt in prompts(5)]


def test_the_smallest_batch_is_the_one_that_is_multiplied_as_integers():
    assert reordered.SMALLEST_BATCH == 2 * ALONE


def test_beams_are_a_batch_too(copied):
    gpt = int8_gpt()
    found = gpt.generate(prompts(1), max_new_tokens=6, num_beams=8)
    assert copied
    before = gpt.get_weights()
    gpt.set_weights(int8_gpt(seed=1).get_weights())
    assert gpt.generate(prompts(1), max_new_tokens=6, num_beams=8) != found
    gpt.set_weights(before)
    assert gpt.generate(prompts(1), max_new_tokens=6, num_beams=8) == found


def test_where_onednn_has_another_order_no_copies_are_read(copied, monkeypatch):
    monkeypatch.setattr(reordered, "takes_reordered", lambda *args: False)
    gpt = int8_gpt()
    answers = gpt.generate(prompts(5), **ASK)
    assert not copied
    assert answers == [gpt.generate([prompt], **ASK)[0] for prompt in prompts(5)]


def test_int4_has_none(copied):
    gpt = GPT(VOCAB_SIZE, WIDTH, 4, INNER, 2, context_length=64)
    gpt.quantize("int4")
    gpt.generate(prompts(5), **ASK)
    assert not copied


def test_a_batch_reads_the_weights_that_the_model_has_now():
    gpt, other = int8_gpt(), int8_gpt(seed=1)
    before, wanted = gpt.generate(prompts(6), **ASK), other.generate(prompts(6), **ASK)
    assert before != wanted
    gpt.set_weights(other.get_weights())
    assert gpt.generate(prompts(6), **ASK) == wanted
    kernel = other.blocks[0].feed_forward.up._kernel
    kernel.assign_add(np.ones(kernel.shape, "int8"))
    assert gpt.generate(prompts(6), **ASK) != other.generate(prompts(6), **ASK)
    gpt.set_weights(other.get_weights())
    assert gpt.generate(prompts(6), **ASK) == other.generate(prompts(6), **ASK)


def test_a_saved_model_holds_no_copies(tmp_path):
    gpt, plain = int8_gpt(), int8_gpt()
    gpt.generate(prompts(8), **ASK)
    for model, name in ((gpt, "read"), (plain, "plain")):
        model.export(tmp_path / name, format="tf_saved_model")
    sizes = [
        sum(file.stat().st_size for file in (tmp_path / name).rglob("variables*/*"))
        for name in ("read", "plain")
    ]
    assert sizes[1] > VOCAB_SIZE * WIDTH
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_a_model_that_was_read_in_parts_makes_each_copy_once(copied, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "_BLOCK", 1000)  # larger matrices are read so
    int8_gpt().save_to_preset(tmp_path / "gpt")
    gpt = GPT.from_preset(tmp_path / "gpt")
    gpt.generate(prompts(5), **ASK)
    made = len(copied)
    gpt.generate(prompts(5), **ASK)
    assert len(copied) == made > 0


@OF_BFLOAT16
def test_bfloat16_has_copies_too(copied, monkeypatch):
    gpt = bfloat16_gpt()
    gpt.generate(prompts(4), **ASK)
    assert not copied
    answers = gpt.generate(prompts(8), **ASK)
    assert sorted(copied) == those_read(OF_MODEL, 8, "bfloat16")
    other = bfloat16_gpt(seed=1)
    wanted = other.generate(prompts(8), **ASK)
    gpt.set_weights(other.get_weights())
    assert answers != wanted == gpt.generate(prompts(8), **ASK)
    monkeypatch.setattr(reordered, "takes_reordered", lambda *args: False)
    assert bfloat16_gpt().generate(prompts(8), **ASK) == answers


@pytest.mark.parametrize("make", [int8_gpt, pytest.param(bfloat16_gpt, marks=OF_BFLOAT16)])
def test_a_batch_reads_the_copies(make):
    gpt = make()
    answers = gpt.generate(prompts(8), **ASK)
    for each in decode_steps(gpt).copies._copies.values():
        each.copy.assign(np.zeros_like(each.copy.numpy()))
    assert gpt.generate(prompts(8), **ASK) != answers


@OF_BFLOAT16
def test_what_reads_no_copy_of_bfloat16_makes_none(copied):
    gpt = bfloat16_gpt(tie_embeddings=False)
    gpt.generate(prompts(8), **ASK)
    assert sorted(copied) == those_read([*OF_BLOCK, *OF_BLOCK], 8, "bfloat16")
    copied.clear()
    with_lora = bfloat16_gpt()
    for layer in (with_lora.token_embedding, with_lora.blocks[0].feed_forward.down):
        layer.enable_lora(2)
    with_lora.generate(prompts(8), **ASK)
    assert sorted(copied) == those_read([*OF_BLOCK, *OF_BLOCK[:3]], 8, "bfloat16")
    copied.clear()
    bfloat16_gpt(dtype="mixed_bfloat16").generate(prompts(8), **ASK)
    assert not copied
