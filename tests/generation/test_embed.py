"""`GPT.embed`: the last states, pooled over what is no padding."""

import numpy as np
import pytest
from gpt_cases import CONTEXT, make_gpt, random_ids, shared_gpt, small_tokenizer


@pytest.mark.parametrize("name", ["gpt3", "prefix"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_pooled_states(name, pooling):
    gpt = shared_gpt(name)
    lengths = (3, 20, 1, 11, 7, 5, CONTEXT, 2, 9)
    rows = [random_ids(length, seed=length).tolist() for length in lengths]
    want = []
    for row in rows:
        inputs = {"token_ids": np.array([row])}
        if name == "prefix":
            inputs["prefix_lengths"] = np.array([len(row)])
        states = np.asarray(gpt.hidden_states(inputs))[0]
        want.append(states.mean(axis=0) if pooling == "mean" else states[-1])
    got = gpt.embed(rows, pooling=pooling, normalize=False)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.stack(want), atol=2e-5)
    unit = gpt.embed(rows, pooling=pooling)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(unit * np.linalg.norm(got, axis=1, keepdims=True), got, atol=2e-5)


def test_text_and_one_text():
    gpt = make_gpt(vocab_size=320, num_layers=1, tokenizer=small_tokenizer())
    one = gpt.embed("the cat")
    assert one.shape == (32,)
    both = gpt.embed(["the cat", gpt.tokenizer.decode(gpt.tokenizer.encode("the mat"))])
    np.testing.assert_allclose(both[0], one, atol=1e-5)
    assert not np.allclose(both[1], one)


def test_bad_arguments():
    gpt = shared_gpt("gpt3")
    with pytest.raises(ValueError, match=r"pooling must be one of .*pooling='first'"):
        gpt.embed([1], pooling="first")
    with pytest.raises(ValueError, match=r"texts\[1\] must fit the context of 48 tokens"):
        gpt.embed([[1], [1] * 49])
    with pytest.raises(ValueError, match="texts must hold ids"):
        gpt.embed([1, 96])
    with pytest.raises(ValueError, match="this model has no tokenizer"):
        gpt.embed("a")
