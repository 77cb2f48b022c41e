"""The settings of the exported `generate`: each row is what Python's gives with them, alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gpt_cases import some

from keras_gpt import GPT
from keras_gpt.export.graph_stop import find_stop

PROMPTS = ["The quick", "Why not? 日本語も。", "W", "dog, and then it rests.", "lazy"]


@pytest.fixture(scope="module")
def gpt(make_gpt: Callable[..., GPT]) -> GPT:
    return make_gpt(num_layers=1)


@pytest.fixture(scope="module")
def loaded(gpt: GPT, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("settings") / "1"
    gpt.export(folder)
    return tf.saved_model.load(str(folder))


def _draw_settings(gpt: GPT, prompt: str, random: np.random.Generator) -> dict[str, Any]:
    """Draw a row's settings; its stop string is mostly a piece of what it says without one."""
    settings = {
        "max_new_tokens": int(random.integers(1, 24)),
        "temperature": float(random.choice([0.0, 0.8, 1.5])),
        "seed": int(random.integers(2**31)),
        "min_p": float(random.choice([0.0, 0.1])),
        "typical_p": float(random.choice([0.7, 1.0])),
        "repetition_penalty": float(random.choice([1.0, 1.4])),
        "presence_penalty": float(random.choice([0.0, 0.5])),
        "frequency_penalty": float(random.choice([0.0, -0.5])),
        "no_repeat_ngram_size": int(random.integers(4)),
        "min_new_tokens": int(random.integers(5)),
    }
    whole = gpt.generate(prompt, echo=False, **_python(settings))
    stop = ["", "zzz"]
    if len(whole) > 3:
        start = int(random.integers(len(whole) - 2))
        piece = whole[start : start + int(random.integers(1, 4))]
        stop[0] = "" if "\ufffd" in piece else piece
    return {
        **settings,
        "stop": stop,
        "echo": bool(random.integers(2)),
        "logprobs": int(random.integers(-1, 4)),
    }


def _python(row: dict[str, Any]) -> dict[str, Any]:
    settings = {**row, "no_repeat_ngram_size": row["no_repeat_ngram_size"] or None}
    if "stop" in row:
        settings["stop"] = [each for each in row["stop"] if each]
        settings["logprobs"] = None if row["logprobs"] < 0 else row["logprobs"]
    return settings


@pytest.mark.parametrize("case", some(range(4), 0, 1))
def test_rows_with_any_settings_are_those_of_generate(
    gpt: GPT, loaded: Any, ask: Callable[..., dict[str, Any]], case: int
) -> None:
    """Tokens, texts, ends and log-probabilities, whatever stands beside a row."""
    random = np.random.default_rng(case)
    rows = [_draw_settings(gpt, prompt, random) for prompt in PROMPTS]
    answer = ask(loaded, PROMPTS, **{name: [row[name] for row in rows] for name in rows[0]})
    for place, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
        expected = gpt.generate(prompt, details=True, **_python(row))
        ids = gpt.tokenizer.encode(prompt)
        new = answer["token_ids"][place, len(ids) : answer["num_tokens"][place]].tolist()
        assert new == expected.token_ids
        assert answer["text"][place].decode() == expected.text
        completion = answer["completion"][place].decode()
        assert expected.text == (prompt if row["echo"] else "") + completion
        assert answer["finish_reason"][place].decode() == expected.finish_reason
        logs, top_ids = answer["log_probabilities"][place], answer["top_token_ids"][place]
        assert (logs[len(new) :] == 0.0).all()
        assert (top_ids[:, max(row["logprobs"], 0) :] == -1).all()
        if expected.logprobs is not None:
            np.testing.assert_allclose(logs[: len(new)], expected.logprobs, rtol=1e-3, atol=1e-4)
            for step, top in enumerate(expected.top_logprobs):
                assert set(top_ids[step, : row["logprobs"]].tolist()) == set(top)


def test_nobody_asks_for_log_probabilities(loaded: Any, ask: Callable[..., Any]) -> None:
    """Their shapes have no columns then."""
    answer = ask(loaded, PROMPTS[:2], max_new_tokens=[4])
    assert answer["log_probabilities"].shape == (2, 0)
    assert (
        answer["top_token_ids"].shape[::2] == answer["top_log_probabilities"].shape[::2] == (2, 0)
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_p", 1.5),
        ("typical_p", 0.0),
        ("repetition_penalty", 0.0),
        ("presence_penalty", float("nan")),
        ("frequency_penalty", float("inf")),
        ("no_repeat_ngram_size", -1),
        ("min_new_tokens", -1),
        ("logprobs", 21),
    ],
)
def test_a_bad_setting_is_named(
    loaded: Any, ask: Callable[..., Any], name: str, value: float
) -> None:
    """As `generate` names it."""
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} must be"):
        ask(loaded, PROMPTS[:1], **{name: [value]})


def test_stop_strings_are_found_where_they_first_begin() -> None:
    """Over every split of a text in two, against Python's own search."""
    text, stops = "abcabd日本", ["abd", "日", "cab", "x", ""]
    raw = text.encode()
    for border in range(len(raw)):
        for stop in stops:
            place = raw.find(stop.encode(), max(border - len(stop.encode()) + 1, 0)) if stop else -1
            found = find_stop(tf.constant([raw]), tf.constant([border]), tf.constant([[stop, ""]]))
            assert found.numpy().tolist() == [place]
