"""The forward pass: masks, packed rows, prefixes, dtypes, and the roads to the same answer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gpt_cases import (
    ARCHITECTURES,
    CONTEXT,
    VOCAB_SIZE,
    logits_of,
    make_gpt,
    random_ids,
    shared_gpt,
    small_tokenizer,
)

from keras_gpt import GPT, GPTConfig

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_documents_call():
    gpt = GPT(40, 16, 2, 24, 1)
    assert (gpt.config.vocab_size, gpt.config.embedding_dim, gpt.config.num_heads) == (40, 16, 2)
    assert (gpt.config.feed_forward_dim, gpt.config.num_layers) == (24, 1)
    assert gpt(random_ids(2, 5, high=40), training=False, mask=None).shape == (2, 5, 40)
    with pytest.raises(ValueError, match="num_heads must divide"):
        GPT(40, 16, 3, 24, 1)
    with pytest.raises(ValueError, match="colour"):
        GPT(40, 16, 2, 24, 1, colour="red")
    with pytest.raises(ValueError, match=r"vocab_size=40, tokenizer.vocab_size=\d+"):
        GPT(40, 16, 2, 24, 1, tokenizer=small_tokenizer())


@every_architecture
def test_no_token_changes_the_logits_before_it(name):
    gpt, ids = shared_gpt(name), random_ids(1, 12)
    before = logits_of(gpt, ids)
    for t in (1, 5, 11):
        changed = ids.copy()
        changed[0, t] = (changed[0, t] + 1) % VOCAB_SIZE
        after = logits_of(gpt, changed)
        np.testing.assert_allclose(after[:, :t], before[:, :t], atol=1e-5)
        assert np.abs(after[:, t] - before[:, t]).max() > 1e-3


def test_a_band_hides_what_is_further_back():
    gpt, ids = make_gpt(attention_windows=(3,)), random_ids(1, 12)
    changed = ids.copy()
    changed[0, 0] = (changed[0, 0] + 1) % VOCAB_SIZE
    difference = np.abs(logits_of(gpt, ids) - logits_of(gpt, changed)).max(-1)[0]
    # Two layers of three positions reach back four.
    assert (difference[:5] > 1e-4).all()
    assert (difference[5:] < 1e-5).all()


@every_architecture
def test_padding_on_either_side_changes_nothing(name):
    gpt = shared_gpt(name)
    rows = [random_ids(n, seed=n) for n in (3, 7, 10)]
    alone = [logits_of(gpt, row[None])[0] for row in rows]
    for left in (False, True):
        ids, mask = np.zeros((3, 10), "int32"), np.zeros((3, 10), bool)
        for i, row in enumerate(rows):
            place = slice(10 - len(row), 10) if left else slice(len(row))
            ids[i, place], mask[i, place] = row, True
        as_argument = logits_of(gpt, ids, mask=mask)
        as_part = logits_of(gpt, {"token_ids": ids, "padding_mask": mask})
        np.testing.assert_array_equal(as_argument, as_part)
        assert np.isfinite(as_argument).all()
        for i, want in enumerate(alone):
            close(as_argument[i][mask[i]], want)


def test_attention_mask():
    gpt, ids = shared_gpt("gpt2"), random_ids(2, 6)
    close(logits_of(gpt, ids, mask=np.ones((2, 6, 6), bool)), logits_of(gpt, ids))
    # Queries from 3 on may not look at keys 1 and 2: as if these two were padding for them.
    mask = np.ones((2, 6, 6), bool)
    mask[:, 3:, 1:3] = False
    got = logits_of(gpt, ids, mask=mask)
    close(got[:, :3], logits_of(gpt, ids)[:, :3])
    assert np.abs(got[:, 3:] - logits_of(gpt, ids)[:, 3:]).max() > 1e-2
    other = ids.copy()
    other[:, 1:3] = (ids[:, 1:3] + 1) % VOCAB_SIZE
    # One layer deep this would be exact; a row that never looks is what makes it so in all.
    mask[:, :, 1:3] = np.eye(6, dtype=bool)[:, 1:3]
    a, b = logits_of(gpt, ids, mask=mask), logits_of(gpt, other, mask=mask)
    close(a[:, [0, 3, 4, 5]], b[:, [0, 3, 4, 5]])
    # One mask for all rows.
    close(logits_of(gpt, ids, mask=mask[:1]), a)


@every_architecture
def test_documents_in_a_packed_row_are_as_if_alone(name):
    gpt = shared_gpt(name)
    documents = [random_ids(n, seed=n) for n in (4, 1, 6)]
    packed = {
        "token_ids": np.concatenate(documents)[None],
        "segment_ids": np.repeat([0, 1, 2], [4, 1, 6])[None],
    }
    want = np.concatenate([logits_of(gpt, document[None])[0] for document in documents])
    close(logits_of(gpt, packed)[0], want)


def test_prefix_sees_itself_both_ways():
    gpt, ids = shared_gpt("prefix"), random_ids(2, 8)
    lengths = np.array([5, 0])
    changed = ids.copy()
    changed[:, 4] = (ids[:, 4] + 1) % VOCAB_SIZE
    a, b = [logits_of(gpt, {"token_ids": x, "prefix_lengths": lengths}) for x in (ids, changed)]
    assert (np.abs(a - b).max(-1)[0, :4] > 1e-4).all()  # the prefix looks ahead
    close(a[1, :4], b[1, :4])  # a row without one does not
    changed = ids.copy()
    changed[:, 6] = (ids[:, 6] + 1) % VOCAB_SIZE
    b = logits_of(gpt, {"token_ids": changed, "prefix_lengths": lengths})
    close(a[:, :6], b[:, :6])  # after it all is causal
    close(
        logits_of(gpt, {"token_ids": ids, "prefix_lengths": np.array([0, 1])}), logits_of(gpt, ids)
    )


@pytest.mark.parametrize("name", ["gpt3", "llama"])
def test_graph_and_xla_give_what_eager_gives(name):
    gpt, ids = shared_gpt(name), random_ids(2, 9)
    mask = np.arange(9)[None] < np.array([[9], [4]])
    want = logits_of(gpt, ids, mask=mask)
    for jit in (False, True):
        function = tf.function(lambda x, m: gpt(x, mask=m), jit_compile=jit)
        close(function(ids, mask), want)
    close(gpt.predict({"token_ids": ids, "padding_mask": mask}, verbose=0), want)


def test_dropout_acts_in_training_alone():
    for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
        gpt, ids = make_gpt(**{name: 0.4}), random_ids(1, 6)
        quiet = logits_of(gpt, ids)
        np.testing.assert_array_equal(quiet, logits_of(gpt, ids, training=False))
        assert np.abs(quiet - logits_of(gpt, ids, training=True)).max() > 1e-2
    gpt = make_gpt()
    np.testing.assert_array_equal(logits_of(gpt, ids), logits_of(gpt, ids, training=True))


def test_output_activation_stands_before_the_projection():
    gpt, ids = make_gpt(output_activation="tanh"), random_ids(1, 6)
    states = np.asarray(gpt.hidden_states(ids))
    assert np.abs(states).max() <= 1.0
    close(logits_of(gpt, ids), states @ np.asarray(gpt.output_matrix()).T)
    plain = make_gpt()
    plain.set_weights(gpt.get_weights())
    close(states, np.tanh(np.asarray(plain.hidden_states(ids))))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
@every_architecture
def test_half_precision_is_near_the_full_one(name, policy):
    full = shared_gpt(name)
    half = make_gpt(**ARCHITECTURES[name], dtype=policy)
    half.set_weights(full.get_weights())
    ids = random_ids(2, 8)
    got = half(ids)
    assert keras.backend.standardize_dtype(got.dtype) == half.compute_dtype
    got, want = logits_of(half, ids), logits_of(full, ids)
    assert np.isfinite(got).all()
    assert np.abs(got - want).mean() < 0.05 * want.std()


def test_rotary_angles_are_not_rounded_to_half_precision():
    gpt = make_gpt(**ARCHITECTURES["llama"], dtype="mixed_bfloat16")
    ids = random_ids(2, 40)
    states, _ = gpt.prefill(
        keras.ops.convert_to_tensor(ids), keras.ops.convert_to_tensor(np.array([40, 40], "int32"))
    )
    last = gpt.next_logits(states[:, -1])
    np.testing.assert_allclose(last, logits_of(gpt, ids)[:, -1], rtol=1e-2, atol=1e-2)


@every_architecture
def test_keras_file_is_bit_exact(name, tmp_path):
    gpt, ids = shared_gpt(name), random_ids(2, 7)
    gpt.save(tmp_path / "gpt.keras")
    again = keras.saving.load_model(tmp_path / "gpt.keras")
    assert type(again) is GPT
    assert again.config == gpt.config
    for a, b in zip(again.weights, gpt.weights, strict=True):
        assert a.path.split("/", 1)[1] == b.path.split("/", 1)[1]
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    np.testing.assert_array_equal(logits_of(again, ids), logits_of(gpt, ids))


def test_keras_file_keeps_tokenizer_policy_and_name(tmp_path):
    tokenizer = small_tokenizer()
    gpt = make_gpt(vocab_size=300, tokenizer=tokenizer, dtype="mixed_bfloat16", name="parrot")
    gpt.save(tmp_path / "gpt.keras")
    again = keras.saving.load_model(tmp_path / "gpt.keras")
    assert again.tokenizer == tokenizer
    assert (again.name, again.dtype_policy.name) == ("parrot", "mixed_bfloat16")
    prompt = {"max_new_tokens": 1, "seed": 1}
    assert again.generate("the cat", **prompt) == gpt.generate("the cat", **prompt)


def test_config_round_trip():
    gpt = make_gpt(**ARCHITECTURES["llama"], embedding_dropout=0.1, name="a")
    again = GPT.from_config(gpt.get_config())
    assert again.config == gpt.config
    assert again.get_config() == gpt.get_config()
    assert GPTConfig.from_dict(gpt.config.to_dict()) == gpt.config


def test_preset_folder_is_bit_exact(tmp_path):
    gpt = make_gpt(**ARCHITECTURES["llama"])
    gpt.save_to_preset(tmp_path / "p")
    again = GPT.from_preset(tmp_path / "p")
    for a, b in zip(again.weights, gpt.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    fresh = GPT.from_preset(tmp_path / "p", load_weights=False)
    assert fresh.config == gpt.config
    with pytest.raises(ValueError, match="load_weights=False"):
        GPT.from_preset("gpt2")
    with pytest.raises(FileNotFoundError):
        GPT.from_preset(tmp_path / "missing")


def test_shapes_without_a_call():
    gpt = shared_gpt("gpt2")
    assert gpt.compute_output_shape((3, 5)) == (3, 5, VOCAB_SIZE)
    assert gpt.compute_output_shape({"token_ids": (3, 5)}) == (3, 5, VOCAB_SIZE)
    spec = make_gpt(dtype="mixed_bfloat16").compute_output_spec(
        keras.KerasTensor((None, 4), "int32")
    )
    assert (spec.shape, spec.dtype) == ((None, 4, VOCAB_SIZE), "bfloat16")
    assert gpt(random_ids(1, CONTEXT)).shape == (1, CONTEXT, VOCAB_SIZE)


def test_inside_a_functional_model():
    gpt = shared_gpt("gpt2")
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Softmax()(gpt(inputs)))
    ids = random_ids(2, 5)
    close(model(ids), keras.ops.softmax(gpt(ids)))
