"""Quantization through Keras' own mechanism: every road must notice it."""

import warnings

import keras
import numpy as np
import pytest
from gpt_cases import logits_of, make_gpt, random_ids

IDS = random_ids(2, 9)


# Each mode and each output matrix once; the other pairs are slow.
@pytest.fixture(
    scope="module",
    params=[
        "int8 tied",
        pytest.param("int8 untied", marks=pytest.mark.slow),
        pytest.param("int4 tied", marks=pytest.mark.slow),
        "int4 untied",
    ],
)
def models(request):
    """A model and the same one in integers, which had compiled its decode functions before."""
    keras.utils.set_random_seed(1)  # a state on the border of two integers may round either way
    mode, tied = request.param.split()
    full = make_gpt(tie_embeddings=tied == "tied")
    small = make_gpt(tie_embeddings=tied == "tied")
    small.set_weights(full.get_weights())
    small.generate([1, 2, 3], max_new_tokens=1, temperature=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Keras itself would name each layer that has no matrix
        small.quantize(mode)
    return full, small


def test_matrices_are_integers_and_logits_are_near(models):
    full, small = models
    kernels = [w for w in small.weights if keras.backend.standardize_dtype(w.dtype) == "int8"]
    assert len(kernels) >= 2 * 4 + 1
    want, got = logits_of(full, IDS), logits_of(small, IDS)
    allowed = 0.1 if small.token_embedding.quantization_mode == "int8" else 0.4
    assert np.abs(got - want).mean() < allowed * want.std()
    assert np.abs(got - want).max() > 0


def test_generate_reads_the_new_weights(models):
    _, small = models
    prompt, ids = [5, 6, 7, 8], [5, 6, 7, 8]
    for _ in range(6):
        ids.append(int(logits_of(small, np.array([ids]))[0, -1].argmax()))
    assert small.generate(prompt, max_new_tokens=6, temperature=0) == ids


def test_score_is_that_of_the_quantized_logits(models):
    _, small = models
    for row in IDS:
        log_p = np.asarray(keras.ops.log_softmax(logits_of(small, row[None, :-1])[0], axis=-1))
        want = log_p[np.arange(len(row) - 1), row[1:]]
        np.testing.assert_allclose(small.score(row, per_token=True), want, rtol=1e-3, atol=1e-3)


def test_loss_is_near_that_of_the_full_model(models):
    full, small = models
    for gpt in models:
        gpt.compile("sgd")
    a, b = [gpt.evaluate(IDS[:, :-1], IDS[:, 1:], verbose=0) for gpt in (full, small)]
    allowed = 0.05 if small.token_embedding.quantization_mode == "int8" else 0.1
    assert b == pytest.approx(a, rel=allowed)


@pytest.mark.parametrize(
    "config",
    [
        keras.quantizers.Int8QuantizationConfig(activation_quantizer=None),
        keras.quantizers.Int4QuantizationConfig(block_size=64),
    ],
)
def test_settings_that_a_mode_has_not_are_refused(config):
    gpt = make_gpt()
    with pytest.raises(ValueError, match=f'pass mode="{config.mode}"'):
        gpt.quantize(config=config)
    assert not any(w.dtype == "int8" for w in gpt.weights)
    with pytest.raises(ValueError, match="mode"):
        gpt.quantize("int3")
