"""compile, fit and evaluate: the next-token loss by default, and whatever else Keras offers."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from gpt_cases import ARCHITECTURES, VOCAB_SIZE, logits_of, make_gpt, random_ids

ROWS, TIME = 8, 10
DATA = random_ids(ROWS, TIME + 1)
X, Y = DATA[:, :-1], DATA[:, 1:].copy()
WEIGHTS = (np.random.default_rng(1).uniform(size=Y.shape) + 0.1).astype("float32")

plain = keras.losses.SparseCategoricalCrossentropy


def plain_loss(gpt, x=X, y=Y, weights=None):
    log_p = np.asarray(keras.ops.log_softmax(logits_of(gpt, x), axis=-1), "float64")
    each = -np.take_along_axis(log_p, y[..., None], -1)[..., 0]
    return float(np.average(each, weights=weights))


def same_weights(a, b, atol):
    for one, other in zip(a.weights, b.weights, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", ["gpt2", "llama", "prefix"])
def test_three_steps_equal_those_of_the_plain_loss(name):
    ours, theirs = make_gpt(**ARCHITECTURES[name]), make_gpt(**ARCHITECTURES[name])
    theirs.set_weights(ours.get_weights())
    before = plain_loss(ours)
    ours.compile(keras.optimizers.SGD(0.05))
    theirs.compile(keras.optimizers.SGD(0.05), loss=plain(from_logits=True))
    settings = {"batch_size": ROWS, "epochs": 3, "shuffle": False, "verbose": 0}
    a, b = ours.fit(X, Y, **settings).history, theirs.fit(X, Y, **settings).history
    assert a["loss"][0] == pytest.approx(before, rel=1e-5)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)
    assert a["loss"][-1] < a["loss"][0]
    same_weights(ours, theirs, 1e-5)


@pytest.fixture(scope="module")
def trained():
    """A model compiled with a metric, after an epoch that has made its functions."""
    gpt = make_gpt(num_layers=1)
    gpt.compile(
        keras.optimizers.SGD(0.5),
        metrics=[keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="plain")],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="right")],
    )
    return gpt


def test_metrics_get_the_logits_that_the_loss_saw(trained):
    # One step an epoch: the metric of an epoch is that of the weights before its step.
    want = [plain_loss(trained)]
    history = trained.fit(X, Y, batch_size=ROWS, epochs=2, verbose=0).history
    assert history["plain"][0] == pytest.approx(want[0], rel=1e-5)
    np.testing.assert_allclose(history["plain"], history["loss"], rtol=1e-5)
    assert abs(history["loss"][1] - history["loss"][0]) > 1e-3


def test_evaluate_gives_loss_and_metrics(trained):
    got = trained.evaluate(X, Y, batch_size=ROWS, verbose=0, return_dict=True)
    assert got["loss"] == pytest.approx(plain_loss(trained), rel=1e-5)
    assert got["plain"] == pytest.approx(got["loss"], rel=1e-5)
    right = logits_of(trained, X).argmax(-1) == Y
    assert got["right"] == pytest.approx(right.mean(), abs=1e-6)


def test_sample_weight(trained):
    got = trained.evaluate(
        X, Y, sample_weight=WEIGHTS, batch_size=ROWS, verbose=0, return_dict=True
    )
    assert got["loss"] == pytest.approx(plain_loss(trained, weights=WEIGHTS), rel=1e-5)
    right = logits_of(trained, X).argmax(-1) == Y
    assert got["right"] == pytest.approx(np.average(right, weights=WEIGHTS), abs=1e-5)


def test_a_dataset_of_parts_with_weights():
    gpt = make_gpt(num_layers=1)
    gpt.compile(keras.optimizers.SGD(0.1))
    segments = np.repeat([[0] * 4 + [1] * 6], ROWS, axis=0)
    parts = {"token_ids": X, "segment_ids": segments}
    data = tf.data.Dataset.from_tensor_slices((parts, Y, WEIGHTS)).batch(ROWS)
    log_p = np.asarray(keras.ops.log_softmax(logits_of(gpt, parts), axis=-1))
    each = -np.take_along_axis(log_p, Y[..., None], -1)[..., 0]
    history = gpt.fit(data, verbose=0).history
    assert history["loss"][0] == pytest.approx(np.average(each, weights=WEIGHTS), rel=1e-5)


def test_compiling_again_without_a_loss_forgets_the_old_one():
    gpt = make_gpt(num_layers=1)
    gpt.compile("sgd", loss=plain(from_logits=True, reduction="sum"), metrics=["accuracy"])
    gpt.compile("sgd")
    got = gpt.evaluate(X, Y, batch_size=ROWS, verbose=0, return_dict=True)
    assert got == {"loss": pytest.approx(plain_loss(gpt), rel=1e-5)}


def test_a_loss_of_the_users_own():
    gpt = make_gpt(num_layers=1)
    gpt.compile("sgd", loss=lambda y, logits: keras.ops.mean(logits**2) + 0.0 * keras.ops.sum(y))
    got = gpt.evaluate(X, Y, batch_size=ROWS, verbose=0)
    assert got == pytest.approx(float((logits_of(gpt, X) ** 2).mean()), rel=1e-5)


def test_regularizers_count():
    gpt = make_gpt(num_layers=1)
    gpt.blocks[0].attention.qkv.kernel_regularizer = None
    before = plain_loss(gpt)
    gpt.token_embedding._embeddings.regularizer = keras.regularizers.L2(0.01)
    penalty = 0.01 * float((np.asarray(gpt.token_embedding.embeddings) ** 2).sum())
    gpt.compile("sgd")
    assert gpt.evaluate(X, Y, batch_size=ROWS, verbose=0) == pytest.approx(
        before + penalty, rel=1e-5
    )


@pytest.mark.parametrize(
    ("name", "policy"), [("gpt2", "mixed_float16"), ("llama", "mixed_bfloat16")]
)
def test_half_precision_trains_under_xla(name, policy):
    gpt = make_gpt(**ARCHITECTURES[name], dtype=policy, num_layers=1)
    gpt.compile(keras.optimizers.Adam(3e-3), jit_compile=True)
    losses = gpt.fit(X, Y, batch_size=ROWS, epochs=8, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.3
    assert ("LossScale" in type(gpt.optimizer).__name__) == (policy == "mixed_float16")


def test_learns_by_heart_without_xla_too():
    keras.utils.set_random_seed(0)  # some beginnings take a few epochs more
    gpt = make_gpt(initializer_range=0.02)
    gpt.compile(keras.optimizers.Adam(3e-2), jit_compile=False)
    history = gpt.fit(X, Y, batch_size=ROWS, epochs=25, verbose=0).history
    assert history["loss"][0] == pytest.approx(math.log(VOCAB_SIZE), rel=0.05)
    assert history["loss"][-1] < 0.5


def test_lora_trains_alone_where_the_rest_is_frozen():
    gpt = make_gpt()
    gpt.generate([1, 2, 3], max_new_tokens=1, temperature=0)  # a function of the old weights
    for layer in gpt._flatten_layers():
        if isinstance(layer, keras.layers.Layer) and layer is not gpt and not layer._layers:
            layer.trainable = False
    for block in gpt.blocks:
        block.attention.qkv.trainable = True
        block.attention.qkv.enable_lora(2)
        block.attention.qkv.bias.trainable = False
    assert {w.name for w in gpt.trainable_weights} == {"lora_kernel_a", "lora_kernel_b"}
    before = [(w, np.asarray(w).copy()) for w in gpt.weights]
    gpt.compile(keras.optimizers.Adam(0.05), jit_compile=False)
    losses = gpt.fit(X, Y, batch_size=ROWS, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    changed = {w.name for w, old in before if not np.array_equal(np.asarray(w), old)}
    assert changed == {"lora_kernel_a", "lora_kernel_b"}
    prompt = [1, 2, 3]
    best = int(logits_of(gpt, np.array([prompt]))[0, -1].argmax())
    assert gpt.generate(prompt, max_new_tokens=1, temperature=0) == [*prompt, best]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "y=None"),
        (Y[:, 1:], r"y\.shape=\(None, 9\)"),
        (Y[:, 0], r"y\.shape"),
        (Y[..., None], r"y\.shape=\(None, 10, 1\)"),
        (Y + VOCAB_SIZE, r"y\[0, 0\]"),
    ],
)
def test_wrong_targets_are_named(trained, y, message):
    gpt = make_gpt(num_layers=1)
    gpt.compile("sgd")
    with pytest.raises(ValueError, match=message):
        gpt.fit(X, y, verbose=0)


def test_a_wrong_target_in_a_generator_is_not_learned_in_silence():
    gpt = make_gpt(num_layers=1)
    gpt.compile("sgd")
    bad = Y.copy()
    bad[0, 0] = VOCAB_SIZE
    assert np.isnan(gpt.fit(((x, y) for x, y in [(X, bad)]), verbose=0).history["loss"][0])


def test_a_compiled_model_goes_on_after_loading(tmp_path, trained):
    trained.save(tmp_path / "gpt.keras")
    again = keras.saving.load_model(tmp_path / "gpt.keras")
    assert again.evaluate(X, Y, batch_size=ROWS, verbose=0)[0] == pytest.approx(
        plain_loss(trained), rel=1e-5
    )
