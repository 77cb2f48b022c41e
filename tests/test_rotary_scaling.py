"""How rotary frequencies are slowed: the numbers, the fields, and models that are scaled."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gpt_cases import ARCHITECTURES, logits_of, make_gpt, random_ids, some

from keras_gpt import GPT, GPTConfig
from keras_gpt.layers import rotary_tables
from keras_gpt.rotary_scaling import RotaryScaling, rotary_frequencies

LINEAR = {"method": "linear", "factor": 4.0}
YARN = {
    "method": "yarn",
    "factor": 4.0,
    "original_context_length": 12,
    "beta_fast": 1.5,
    "beta_slow": 0.2,
}
LLAMA3 = {
    "method": "llama3",
    "factor": 4.0,
    "original_context_length": 12,
    "low_freq_factor": 0.1,
    "high_freq_factor": 1.0,
}
ALL = {"linear": LINEAR, "yarn": YARN, "llama3": LLAMA3}


def _frequencies(scaling: RotaryScaling, head_dim: int, base: float) -> np.ndarray:
    """Compute pair by pair what the class computes for all at once."""
    got = []
    for pair in range(head_dim // 2):
        plain = base ** (-2 * pair / head_dim)
        turns = (scaling.original_context_length or 0) * plain / (2 * math.pi)
        if scaling.method == "linear":
            share = 1.0
        elif scaling.method == "llama3":
            low, high = scaling.low_freq_factor or 0, scaling.high_freq_factor or 0
            share = 1.0 if turns < low else 0.0 if turns > high else (high - turns) / (high - low)
        else:
            # The pairs, as real numbers, that turn as often as the two bounds say.
            ends = [
                math.log(scaling.original_context_length / (2 * math.pi * beta))  # type: ignore
                / math.log(base)
                * (head_dim / 2)
                for beta in (scaling.beta_fast or 0, scaling.beta_slow or 0)
            ]
            first, last = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), head_dim - 1)
            share = min(max((pair - first) / (last - first), 0.0), 1.0)
        got.append(plain * ((1 - share) + share / scaling.factor))
    return np.array(got)


@pytest.mark.parametrize(
    ("fields", "head_dim", "base"),
    [
        (LINEAR, 8, 100.0),
        (YARN, 8, 100.0),
        (LLAMA3, 8, 100.0),
        ({"method": "yarn", "factor": 16.0, "original_context_length": 4096}, 128, 10000.0),
        (
            {
                "method": "llama3",
                "factor": 8.0,
                "original_context_length": 8192,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            128,
            500000.0,
        ),
    ],
)
def test_frequencies_follow_the_definitions(
    fields: dict[str, Any], head_dim: int, base: float
) -> None:
    """One pair at a time; fast ones are left, slow ones divided by the factor."""
    scaling = RotaryScaling(**fields)
    got = scaling.frequencies(head_dim, base)
    np.testing.assert_allclose(got, _frequencies(scaling, head_dim, base), rtol=1e-12)
    ratio = rotary_frequencies(head_dim, base) / got
    assert ratio[-1] == pytest.approx(scaling.factor)
    if fields["method"] != "linear":
        assert ratio[0] < scaling.factor
        assert (np.diff(ratio) >= -1e-12).all()
        assert ((ratio > 1.001) & (ratio < scaling.factor - 0.001)).any()  # a blend between


def test_tables_are_multiplied_by_yarns_attention_factor() -> None:
    """0.1 ln(factor) + 1, or what is given; the other methods multiply by nothing."""
    positions = np.arange(40)[None]
    for fields, expected in (
        (YARN, 0.1 * math.log(4) + 1),
        ({**YARN, "attention_factor": 0.7}, 0.7),
        (LINEAR, 1.0),
        (LLAMA3, 1.0),
    ):
        scaling = RotaryScaling(**fields)
        cos, sin = (
            keras.ops.convert_to_numpy(table)
            for table in rotary_tables(positions, 8, 100.0, scaling)
        )
        angles = positions[0][:, None] * scaling.frequencies(8, 100.0)
        np.testing.assert_allclose(cos[0, 0], expected * np.cos(angles), atol=1e-5)
        np.testing.assert_allclose(sin[0, 0], expected * np.sin(angles), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"method": "longrope", "factor": 2},
            "method must be one of .*Received: method='longrope'",
        ),
        ({"method": "dynamic", "factor": 2, "beta_fast": 32}, "beta_fast must be None, since"),
        ({"method": ["x"], "factor": 2}, "method must be one of .*Received: method=['x']"),
        ({**LINEAR, "factor": 0.5}, "factor must be 1 or more. Received: factor=0.5"),
        ({**LINEAR, "factor": "4"}, "factor must be a finite number above 0. Received: factor='4'"),
        ({**LINEAR, "factor": math.nan}, "factor must be a finite number above 0.*nan"),
        ({**LINEAR, "factor": 10**400}, "factor must be a finite number above 0.*1000"),
        ({**LINEAR, "factor": True}, "factor must be a finite number above 0.*True"),
        ({**LINEAR, "beta_fast": 32}, "beta_fast must be None, since method='linear'.*=32"),
        ({**YARN, "low_freq_factor": 1}, "low_freq_factor must be None, since method='yarn'.*=1"),
        ({**YARN, "beta_fast": 0.2}, "beta_fast must be above beta_slow. Received: beta_fast=0.2"),
        ({**YARN, "attention_factor": 0}, "attention_factor must be a finite.*attention_factor=0"),
        ({**YARN, "original_context_length": None}, "original_context_length must be given for"),
        ({**YARN, "original_context_length": 1.5}, "must be a positive integer.*length=1.5"),
        ({**YARN, "original_context_length": True}, "must be a positive integer.*length=True"),
        ({**LLAMA3, "low_freq_factor": None}, "low_freq_factor must be given for method='llama3'"),
        (
            {**LLAMA3, "low_freq_factor": 1.0},
            "high_freq_factor must be above low_freq_factor.*=1.0",
        ),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], message: str) -> None:
    """With what was expected and what was received."""
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(ValueError, match=pattern):
        RotaryScaling(**fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotary_scaling": "yarn"}, "rotary_scaling must be None, a Rot.*rotary_scaling='yarn'"),
        ({"rotary_scaling": {"factor": 2}}, "with method and factor.*{'factor': 2}"),
        ({"rotary_scaling": {**LINEAR, "x": 1}}, "a dictionary of its fields.*'x': 1"),
        ({"rotary_scaling": LINEAR, "positions": "learned"}, "belongs to rotary.*'learned'"),
        ({"rotary_scaling": YARN, "rotary_base": 0.5}, "rotary_base must be above 1.*=0.5"),
        (
            {"rotary_scaling": {**YARN, "original_context_length": 2**31 - 1}},
            "some pair of a head turns between.*rotary_base=10000.0, head_dim=8",
        ),
    ],
)
def test_a_config_refuses_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    """When it is made, not in the first step."""
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(ValueError, match=pattern):
        GPTConfig(
            **{
                "vocab_size": 9,
                "embedding_dim": 32,
                "num_heads": 4,
                "feed_forward_dim": 8,
                "num_layers": 1,
                "positions": "rotary",
                **changes,
            }
        )


def _gpt(method: str) -> GPT:
    return make_gpt(**ARCHITECTURES["llama"], rotary_base=100.0, rotary_scaling=ALL[method])


@pytest.mark.parametrize("method", ALL)
def test_a_scaled_model_comes_back_from_its_files(tmp_path: Path, method: str) -> None:
    """Config as JSON, preset and `.keras`: an equal config and the same logits."""
    gpt = _gpt(method)
    scaling = gpt.config.rotary_scaling
    assert isinstance(scaling, RotaryScaling)
    assert GPTConfig.from_json(gpt.config.to_json()) == gpt.config
    assert GPTConfig(**gpt.config.to_dict()) == gpt.config
    ids = random_ids(2, 40)
    expected = logits_of(gpt, ids)
    plain = make_gpt(**ARCHITECTURES["llama"], rotary_base=100.0)
    plain.set_weights(gpt.get_weights())
    assert np.abs(logits_of(plain, ids) - expected).max() > 0.1  # so that it changes something
    gpt.save_to_preset(tmp_path / "preset")
    gpt.save(tmp_path / "model.keras")
    for other in (
        GPT.from_preset(tmp_path / "preset"),
        keras.saving.load_model(tmp_path / "model.keras"),
    ):
        assert other.config == gpt.config
        assert hash(other.config.rotary_scaling) == hash(scaling)
        np.testing.assert_array_equal(logits_of(other, ids), expected)


# All methods differ in their frequencies alone; yarn has a multiplier besides.
@pytest.mark.parametrize("method", some(ALL, "yarn"))
def test_the_cache_continues_as_the_plain_forward_pass(method: str) -> None:
    """Greedily, past the original context: each token is the best after all before it."""
    gpt = _gpt(method)
    ids = gpt.generate(random_ids(5).tolist(), max_new_tokens=40, temperature=0, stop_token_ids=[])
    logits = logits_of(gpt, np.array([ids[:-1]]))[0]
    best = np.sort(logits, axis=-1)
    assert (best[:, -1] - best[:, -2])[4:].min() > 1e-4  # no tie that rounding could decide
    assert ids[5:] == logits.argmax(-1)[4:].tolist()


def test_yarns_usual_bounds_stand_in_its_fields() -> None:
    """32 and 1 turns, so a config that names them is equal to one that does not."""
    short = RotaryScaling(method="yarn", factor=2, original_context_length=64)
    assert short == dataclasses.replace(short, beta_fast=32, beta_slow=1.0)
    assert short.to_dict() == {
        "method": "yarn",
        "factor": 2.0,
        "original_context_length": 64,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }


def test_an_original_context_beyond_all_positions_is_refused():
    for length in (2**31, 10**400):
        with pytest.raises(ValueError, match=r"original_context_length must be a positive integer"):
            RotaryScaling(method="yarn", factor=2, original_context_length=length)


@pytest.mark.parametrize("scaling", [LINEAR, YARN])
def test_a_config_may_be_wider_than_there_is_memory(scaling):
    """A file's size is compared with its config's later: the config itself holds no tensors."""
    config = GPTConfig(
        vocab_size=8,
        embedding_dim=10**15,
        num_heads=1,
        feed_forward_dim=8,
        num_layers=1,
        positions="rotary",
        rotary_scaling=scaling,
    )
    assert config.head_dim == 10**15
