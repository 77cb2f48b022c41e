import itertools
import json
import math

import pytest
from gpt_cases import make_gpt
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_gpt import GPT, GPTConfig

SMALL = {
    "vocab_size": 11,
    "embedding_dim": 8,
    "num_heads": 4,
    "feed_forward_dim": 12,
    "num_layers": 2,
    "context_length": 6,
}


@st.composite
def configs(draw):
    heads = draw(st.sampled_from([1, 2, 4, 6]))
    positions = draw(st.sampled_from(["learned", "sinusoidal", "rotary"]))
    head_dim = draw(st.sampled_from([2, 4] if positions == "rotary" else [1, 2, 3]))
    dropout = draw(st.sampled_from([0.0, 0.1]))
    return GPTConfig(
        vocab_size=draw(st.integers(1, 20)),
        embedding_dim=heads * head_dim,
        num_heads=heads,
        feed_forward_dim=draw(st.integers(1, 9)),
        num_layers=draw(st.integers(1, 3)),
        context_length=draw(st.integers(1, 9)),
        num_kv_heads=draw(st.sampled_from([None, *[n for n in (1, 2, 3) if heads % n == 0]])),
        norm_placement=draw(st.sampled_from(["pre", "post"])),
        normalization=draw(st.sampled_from(["layer_norm", "rms_norm"])),
        positions=positions,
        feed_forward=draw(st.sampled_from(["dense", "gated"])),
        activation=draw(st.sampled_from(["gelu", "gelu_tanh", "relu", "silu"])),
        use_bias=draw(st.booleans()),
        attention_windows=draw(st.sampled_from([(None,), (None, 2), (3,)])),
        bidirectional_prefix=draw(st.booleans()),
        output_activation=draw(st.sampled_from([None, "tanh"])),
        tie_embeddings=draw(st.booleans()),
        embedding_dropout=dropout,
        attention_dropout=dropout,
        residual_dropout=dropout,
    )


@settings(max_examples=40)
@given(configs())
def test_num_parameters_is_what_the_model_has(config):
    gpt = GPT(**config.to_dict())
    assert config.num_parameters == gpt.count_params()
    assert config.num_parameters == sum(math.prod(w.shape) for w in gpt.trainable_weights)


@given(configs())
def test_json_round_trip(config):
    assert GPTConfig.from_json(config.to_json()) == config
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(GPTConfig.from_dict(config.to_dict())) == hash(config)
    assert GPTConfig.of(config) is config
    assert GPTConfig.of(config.to_dict()) == config


PUBLISHED = {
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}
# Table D.1 of the GPT-3 paper, in millions.
GPT3_MILLIONS = {
    "gpt3-125m": 125,
    "gpt3-350m": 356,
    "gpt3-760m": 760,
    "gpt3-1.3b": 1320,
    "gpt3-2.7b": 2650,
    "gpt3-6.7b": 6660,
    "gpt3-13b": 12850,
    "gpt3-175b": 174600,
}


def test_every_preset_is_checked_here():
    assert set(GPTConfig.preset_names()) == {*PUBLISHED, *GPT3_MILLIONS}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_published_counts(name, count):
    assert GPTConfig.preset(name).num_parameters == count


@pytest.mark.parametrize(("name", "millions"), GPT3_MILLIONS.items())
def test_gpt3_counts_are_those_of_table_d1(name, millions):
    config = GPTConfig.preset(name)
    assert config.num_parameters == pytest.approx(millions * 1e6, rel=0.01)
    assert config.context_length == 2048
    assert config.attention_window(0) is None
    assert config.attention_window(1) is not None
    assert config.attention_window(2) is None


@pytest.mark.parametrize(
    "name",
    [
        "gpt1",
        "gpt2",
        pytest.param("gpt2-medium", marks=pytest.mark.slow),
    ],
)
def test_real_presets_have_the_published_counts(name):
    gpt = GPT.from_preset(name, load_weights=False)
    assert gpt.count_params() == PUBLISHED[name]
    assert gpt.config == GPTConfig.preset(name)


def test_preset_takes_changes():
    config = GPTConfig.preset("gpt2", context_length=256)
    assert config.context_length == 256
    assert config.num_parameters == PUBLISHED["gpt2"] - 768 * 768
    with pytest.raises(ValueError, match="name='gpt-2'"):
        GPTConfig.preset("gpt-2")


BAD = [
    *itertools.product(
        ["vocab_size", "embedding_dim", "num_heads", "feed_forward_dim", "num_layers"],
        [0, -1, 1.0, True, "3", None],
    ),
    *itertools.product(["context_length"], [0, 2.5, None]),
    *itertools.product(["num_kv_heads"], [0, 3, 1.0, False]),
    ("num_heads", 3),
    ("norm_placement", "middle"),
    ("normalization", None),
    ("positions", "rope"),
    ("feed_forward", "moe"),
    ("activation", "tanh"),
    ("output_activation", "relu"),
    *itertools.product(["norm_epsilon", "rotary_base", "initializer_range"], [0, -1.0, "x", None]),
    *itertools.product(
        ["norm_epsilon", "rotary_base", "initializer_range"], [math.nan, math.inf, 10**400]
    ),
    *itertools.product(
        ["embedding_dropout", "attention_dropout", "residual_dropout"],
        [1.0, -0.1, math.nan, "x", None],
    ),
    *itertools.product(["use_bias", "tie_embeddings", "bidirectional_prefix"], ["no", 1, None]),
    *itertools.product(["attention_windows"], [(), (0,), (None, -1), (1.5,), 4, None, "ab"]),
    *itertools.product(["position_noise"], [0.1, -1.0, math.nan, math.inf]),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_a_wrong_field_is_named(field, value):
    with pytest.raises(ValueError, match=rf"{field}.*Received: .*{field}|Received: \(\)"):
        GPTConfig(**{**SMALL, field: value})


def test_negative_noise_and_odd_heads_are_named():
    with pytest.raises(ValueError, match="position_noise"):
        GPTConfig(**SMALL, positions="sinusoidal", position_noise=-0.5)
    with pytest.raises(ValueError, match="must be even"):
        GPTConfig(**{**SMALL, "embedding_dim": 12}, positions="rotary")


def test_unknown_and_missing_fields_are_named():
    with pytest.raises(ValueError, match="colour"):
        GPTConfig.from_dict({**SMALL, "colour": "red"})
    with pytest.raises(ValueError, match="num_layers"):
        GPTConfig.from_dict({k: v for k, v in SMALL.items() if k != "num_layers"})
    for text in ("[1]", "null"):
        with pytest.raises(ValueError, match=r"JSON object\. Received: text="):
            GPTConfig.from_json(text)
    with pytest.raises(ValueError, match="line 1 column 2"):
        GPTConfig.from_json("{")
    with pytest.raises(ValueError, match="nested so deeply"):
        GPTConfig.from_json("[" * 200_000)
    with pytest.raises(ValueError, match="fields must be a dictionary"):
        GPTConfig.from_dict(5)


def test_config_is_frozen():
    with pytest.raises(AttributeError):
        GPTConfig(**SMALL).vocab_size = 3


def test_flops_by_hand():
    # vocabulary 11, width 8, 4 heads of 2, inner width 12, two layers
    dense = 8 * 24 + 8 * 8 + 2 * 8 * 12  # weights of a layer's matrices
    config = GPTConfig(**SMALL)
    assert config.flops_per_token(5) == 6 * (2 * dense + 11 * 8) + 2 * 12 * 8 * 5
    gated = GPTConfig(**SMALL, feed_forward="gated", num_kv_heads=1, attention_windows=(None, 3))
    layer = 8 * (8 + 2 * 2) + 8 * 8 + 3 * 8 * 12
    assert gated.flops_per_token(5) == 6 * (2 * layer + 11 * 8) + 12 * 8 * (5 + 3)
    assert gated.flops_per_token(2) == 6 * (2 * layer + 11 * 8) + 12 * 8 * (2 + 2)
    with pytest.raises(ValueError, match="sequence_length"):
        config.flops_per_token(0)


def test_model_keeps_the_config_it_was_given():
    gpt = make_gpt(attention_windows=(None, 4), num_kv_heads=2)
    assert gpt.config.attention_windows == (None, 4)
    assert gpt.config.num_kv_heads == 2
