"""Wrong prompts and settings: each is refused before any work, and named."""

import numpy as np
import pytest
from gpt_cases import CONTEXT, VOCAB_SIZE, make_gpt, shared_gpt, small_tokenizer


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([], ValueError, "at least one prompt"),
        ([[]], ValueError, r"prompt\[0\] must hold at least one token"),
        ([[1], []], ValueError, r"prompt\[1\]"),
        (np.zeros((0,), "int32"), ValueError, "at least one token"),
        (np.zeros((1, 2, 3), "int32"), ValueError, "prompt.shape"),
        (np.ones((2, 2)), ValueError, "prompt.dtype=float64"),
        ([1, VOCAB_SIZE], ValueError, f"from 0 to {VOCAB_SIZE - 1}.*{VOCAB_SIZE}"),
        ([[1], [-1]], ValueError, r"prompt\[1\].*-1"),
        ([1.5], TypeError, "float"),
        ([[1.5]], ValueError, "1.5"),
        ([True, False], TypeError, "bool"),
        ([[1], "two"], TypeError, r"prompt\[1\].*str"),
        (["one", [2]], TypeError, r"prompt\[0\].*str"),
        (b"bytes", TypeError, "bytes"),
        (None, TypeError, "NoneType"),
        (7, TypeError, "int"),
        ({"a": 1}, TypeError, "dict"),
        ("text", ValueError, "no tokenizer"),
        (["text"], ValueError, "no tokenizer"),
    ],
)
def test_wrong_prompts(prompt, error, message):
    for method in (shared_gpt("gpt2").generate, shared_gpt("gpt2").stream):
        with pytest.raises(error, match=f"(?s){message}"):
            method(prompt)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 5, "max_new_tokens": 5}, "not both"),
        ({"max_length": 0}, "max_length=0"),
        ({"max_length": 3}, "max_length=3.*3 tokens"),
        ({"max_length": CONTEXT + 1}, f"context_length={CONTEXT}"),
        ({"max_length": 4.0}, "max_length=4.0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": True}, "max_new_tokens=True"),
        ({"max_new_tokens": CONTEXT}, f"context of {CONTEXT} tokens"),
        ({"max_new_tokens": CONTEXT, "truncate": "left"}, "context"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 2.0}, "top_k=2.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**31}, "seed=2147483648"),
        ({"seed": 1.0}, "seed=1.0"),
        ({"max_new_tokens": CONTEXT, "truncate": "middle"}, "context"),
        ({"truncate": "top"}, "truncate='top'"),
        ({"truncate": ["left"]}, r"truncate=\['left'\]"),
        ({"stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids"),
    ],
)
def test_wrong_settings(settings, message):
    gpt = shared_gpt("gpt2")
    for method in (gpt.generate, gpt.stream):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            method([1, 2, 3], **settings)


def test_wrong_kinds_of_settings():
    gpt = shared_gpt("gpt2")
    for stop in (5, "ab"):
        with pytest.raises(TypeError, match="stop_token_ids"):
            gpt.generate([1, 2, 3], stop_token_ids=stop)
    with pytest.raises(ValueError, match="num_return_sequences=0"):
        gpt.generate([1, 2, 3], num_return_sequences=0)
    with pytest.raises(TypeError, match="num_return_sequences"):
        gpt.stream([1, 2, 3], num_return_sequences=2)
    with pytest.raises(ValueError, match="one prompt"):
        gpt.stream([[1], [2]])


def test_a_prompt_as_long_as_the_context():
    gpt = shared_gpt("gpt2")
    with pytest.raises(ValueError, match=f"prompt 1.*a prompt of {CONTEXT} tokens"):
        gpt.generate([[1], [1] * CONTEXT])
    with pytest.raises(ValueError, match="truncate='left', 'right' or 'middle'"):
        gpt.generate([1] * (CONTEXT + 20), max_new_tokens=4)


def test_an_empty_text():
    gpt = make_gpt(vocab_size=300, tokenizer=small_tokenizer())
    for prompt in ("", ["a", ""]):
        with pytest.raises(ValueError, match=r"at least one token.*end of text"):
            gpt.generate(prompt)
