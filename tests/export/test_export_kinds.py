"""Every kind of model exports: architectures, dtypes, quantized, with and without a tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gpt_cases import some

from keras_gpt import GPT

PROMPT = "The quick brown"
KINDS: dict[str, dict[str, Any]] = {
    "gpt1": {"norm_placement": "post"},
    # Long enough for the loop to turn the rings of its windows.
    "banded": {"attention_windows": (None, 4), "num_layers": 2, "context_length": 64},
    "modern": {
        "normalization": "rms_norm",
        "positions": "rotary",
        "feed_forward": "gated",
        "activation": "silu",
        "use_bias": False,
        "num_heads": 4,
        "num_kv_heads": 2,
        "tie_embeddings": False,
    },
    "prefix": {"bidirectional_prefix": True, "positions": "sinusoidal", "activation": "relu"},
    "mixed_bfloat16": {"dtype": "mixed_bfloat16", "output_activation": "tanh"},
}


# What gpt1 has of its own, its norms, is tested with `generate`, whose functions an export runs.
@pytest.mark.parametrize("kind", some(KINDS, "banded", "modern", "prefix"))
def test_each_architecture_answers_as_generate_does(
    make_gpt: Callable[..., GPT], tmp_path: Path, ask: Callable[..., dict[str, Any]], kind: str
) -> None:
    """A sampled row, which a wrong logit would soon lead elsewhere."""
    gpt = make_gpt(**{"num_layers": 1, "context_length": 32, **KINDS[kind]})
    gpt.export(tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    new = gpt.config.context_length - 12
    answer = ask(loaded, [PROMPT], temperature=[1.0], max_new_tokens=[new], seed=[3])
    assert answer["text"][0].decode() == gpt.generate(PROMPT, max_new_tokens=new, seed=3)
    logits = loaded.signatures["token_logits"](token_ids=tf.constant([[1, 2, 3]]))["logits"]
    assert logits.dtype == tf.float32
    assert logits.shape == (1, 3, gpt.config.vocab_size)
    if gpt.config.bidirectional_prefix:
        score = loaded.signatures["score"](text=tf.constant([" fox"]), given=tf.constant([PROMPT]))
        expected = [gpt.score(" fox", given=PROMPT)]
        np.testing.assert_allclose(score["log_probability"], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_quantized_model_answers_as_itself(
    make_gpt: Callable[..., GPT], tmp_path: Path, ask: Callable[..., dict[str, Any]]
) -> None:
    """Int8 weights go into the file as int8."""
    gpt = make_gpt(context_length=32, embedding_dim=64, num_layers=1)
    gpt.export(tmp_path / "float" / "1")
    gpt.quantize("int8")
    gpt.export(tmp_path / "int8" / "1")
    loaded = tf.saved_model.load(str(tmp_path / "int8" / "1"))
    answer = ask(loaded, [PROMPT])
    expected = gpt.generate(PROMPT, max_new_tokens=8, temperature=0.0)
    assert answer["text"][0].decode() == expected
    sizes = {
        name: sum(file.stat().st_size for file in (tmp_path / name).rglob("variables.data*"))
        for name in ("float", "int8")
    }
    assert sizes["int8"] < 0.55 * sizes["float"]


def test_without_a_tokenizer_ids_go_in_and_come_out(
    make_gpt: Callable[..., GPT], tmp_path: Path, ask: Callable[..., dict[str, Any]]
) -> None:
    """Rows are padded with -1, and nothing ends them early."""
    gpt = make_gpt(tokenizer=None, context_length=32, num_layers=1)
    gpt.export(tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    answer = ask(loaded, [[7, 8, 9, 10], [5, -1, -1, -1]])
    assert set(answer) == {
        "token_ids",
        "num_tokens",
        "finish_reason",
        "log_probabilities",
        "top_token_ids",
        "top_log_probabilities",
    }
    assert answer["num_tokens"].tolist() == [12, 9]
    for row, prompt in enumerate(([7, 8, 9, 10], [5])):
        ids = gpt.generate(prompt, max_new_tokens=8, temperature=0.0)
        assert answer["token_ids"][row, : len(ids)].tolist() == ids
    assert answer["token_ids"][1, 9:].tolist() == [-1, -1, -1]

    score = loaded.signatures["score"]
    rows = {"text": [[3, 4, 5], [6, 7, -1]], "given": [[1, 2], [-1, -1]]}
    both = score(**{name: tf.constant(ids) for name, ids in rows.items()})
    expected = [gpt.score([3, 4, 5], given=[1, 2]), gpt.score([6, 7])]
    np.testing.assert_allclose(both["log_probability"], expected, rtol=1e-5)
    # Without an end of text nothing stands before the first token, so it is not scored.
    assert both["num_tokens"].numpy().tolist() == [3, 1]

    for bad, message in (
        ([[5, 6], [-1, -1]], "prompt must not be empty"),
        ([[5, -1, 6]], "padded at the end only"),
        ([[300]], "prompt must be ids of the vocabulary"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            ask(loaded, bad)
