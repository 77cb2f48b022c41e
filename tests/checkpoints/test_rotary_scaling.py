"""Scaled rotary positions in the files of other libraries: read, computed and written as they do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt_cases import ARCHITECTURES, logits_of, make_gpt, random_ids

from keras_gpt import GPT
from keras_gpt.rotary_scaling import RotaryScaling

ORIGINAL, LONG = 32, 128
# In transformers' terms; heads are 16 wide and turn with base 1000.
THEIRS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    "yarn-all": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "attention_factor": 1.3,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
        "low_freq_factor": 0.5,
        "high_freq_factor": 4.0,
    },
}
OURS = {
    "linear": RotaryScaling(method="linear", factor=4),
    "dynamic": RotaryScaling(method="dynamic", factor=4),
    "yarn": RotaryScaling(method="yarn", factor=4, original_context_length=ORIGINAL),
    "yarn-all": RotaryScaling(
        method="yarn",
        factor=4,
        original_context_length=ORIGINAL,
        beta_fast=4,
        beta_slow=0.5,
        attention_factor=1.3,
    ),
    "llama3": RotaryScaling(
        method="llama3",
        factor=4,
        original_context_length=ORIGINAL,
        low_freq_factor=0.5,
        high_freq_factor=4,
    ),
}


def _llama(**fields: Any) -> GPT:
    fields = {"context_length": LONG, "rotary_base": 1000.0, **fields}
    return make_gpt(**ARCHITECTURES["llama"], **fields)


def _theirs(name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=211,
        hidden_size=96,
        intermediate_size=100,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=LONG,
        rope_parameters={**THEIRS[name], "rope_theta": 1000.0},
        initializer_range=0.2,
    )
    return transformers.LlamaForCausalLM(config).eval()


def _their_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids, dtype=torch.long)).logits.numpy()


def _edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", THEIRS)
def test_logits_beyond_the_original_context_are_those_of_transformers(
    tmp_path: Path, name: str
) -> None:
    """Read from its folder, continued greedily, written back, and read by it again."""
    theirs = _theirs(name)
    theirs.save_pretrained(tmp_path / "hf")
    ours = GPT.from_preset(tmp_path / "hf")
    assert ours.config.rotary_scaling == OURS[name]
    ids = random_ids(2, LONG, high=211)
    expected = _their_logits(theirs, ids)
    assert np.abs(logits_of(ours, ids) - expected).max() < 2e-4
    import torch

    continued = theirs.generate(
        torch.tensor(ids[:1, :12], dtype=torch.long),
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0].tolist()
    assert (
        ours.generate(ids[0, :12].tolist(), max_new_tokens=64, temperature=0, stop_token_ids=[])
        == continued
    )
    ours.save_to_huggingface(tmp_path / "back")
    again = type(theirs).from_pretrained(tmp_path / "back").eval()
    assert again.config.rope_parameters["rope_theta"] == 1000.0
    np.testing.assert_array_equal(_their_logits(again, ids), expected)


@pytest.mark.filterwarnings("ignore")
def test_the_library_too_leaves_dynamic_frequencies_within_the_context() -> None:
    """Where its factor acts, beyond the context, our model reads nothing."""
    theirs, ids = _theirs("dynamic"), random_ids(1, LONG + 8, high=211)
    plain = _theirs("dynamic")
    plain.config.rope_parameters["factor"] = 1.0
    within = [_their_logits(model, ids[:, :LONG]) for model in (theirs, plain)]
    beyond = [_their_logits(model, ids) for model in (theirs, plain)]
    np.testing.assert_array_equal(*within)
    assert np.abs(beyond[0] - beyond[1]).max() > 0.01
    with pytest.raises(ValueError, match=f"fit the context of {LONG} tokens"):
        _llama(rotary_scaling=OURS["dynamic"]).generate([1] * LONG, max_new_tokens=1)


@pytest.mark.parametrize("name", THEIRS)
def test_both_generations_of_the_library_find_the_scaling(tmp_path: Path, name: str) -> None:
    """rope_scaling and rope_theta before transformers 5, rope_parameters since; each alone."""
    gpt = _llama(rotary_scaling=OURS[name])
    gpt.save_to_huggingface(tmp_path / "hf")
    content = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert content["rope_scaling"] == THEIRS[name] | (
        {"beta_fast": 32.0, "beta_slow": 1.0} if name == "yarn" else {}
    )
    assert content["rope_parameters"] == {**content["rope_scaling"], "rope_theta": 1000.0}
    for gone in (("rope_scaling", "rope_theta"), ("rope_parameters",)):
        _edit(tmp_path / "hf", **content)
        _edit(tmp_path / "hf", **dict.fromkeys(gone))
        assert GPT.from_preset(tmp_path / "hf").config == gpt.config


@pytest.mark.parametrize("field", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "dynamic"}, "factor must be a finite number above 0.*factor=None"),
        ({"rope_type": "longrope", "factor": 2.0}, "method must be one of .*'longrope'"),
        ({"rope_type": ["x"], "factor": 2.0}, r"method must be one of .*\['x'\]"),
        ({"rope_type": "linear"}, "factor must be a finite number above 0.*factor=None"),
        ({**THEIRS["yarn"], "truncate": False}, "FIELD.truncate=False"),
        ({**THEIRS["yarn"], "mscale": 0.7}, "FIELD.mscale=0.7"),
        ({**THEIRS["yarn"], "mscale_all_dim": 0.7}, "FIELD.mscale_all_dim=0.7"),
        ({**THEIRS["linear"], "partial_rotary_factor": 0.5}, "FIELD.partial_rotary_factor=0.5"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({**THEIRS["llama3"], "low_freq_factor": 9.0}, "must be above low_freq_factor.*=9.0"),
        ({**THEIRS["llama3"], "low_freq_factor": None}, "low_freq_factor must be given"),
    ],
)
def test_a_config_that_is_not_ours_is_refused_by_name(
    tmp_path: Path, field: str, rope: dict[str, Any], message: str
) -> None:
    """With the field that it stands in."""
    _llama().save_to_huggingface(tmp_path / "hf")
    _edit(tmp_path / "hf", **{field: rope})
    expected = f"config.json: .*{field}.*{message.replace('FIELD', field)}"
    with pytest.raises(ValueError, match=expected):
        GPT.from_preset(tmp_path / "hf")


def test_rope_scaling_counts_where_a_file_has_both(tmp_path: Path) -> None:
    """As in the library; the base may stand in any of the three places."""
    _llama().save_to_huggingface(tmp_path / "hf")
    _edit(tmp_path / "hf", rope_parameters=THEIRS["yarn"], rope_scaling=THEIRS["linear"])
    config = GPT.from_preset(tmp_path / "hf").config
    assert config.rotary_scaling == OURS["linear"]
    assert config.rotary_base == 1000.0
    _edit(tmp_path / "hf", rope_scaling={"rope_type": "default", "rope_theta": 500.0})
    config = GPT.from_preset(tmp_path / "hf").config
    assert config.rotary_scaling is None
    assert config.rotary_base == 500.0


def test_an_original_context_that_is_not_named_is_the_models(tmp_path: Path) -> None:
    """As in the library; one that is named twice, differently, is refused."""
    _llama().save_to_huggingface(tmp_path / "hf")
    _edit(tmp_path / "hf", rope_scaling={"type": "yarn", "factor": 4.0})
    scaling = GPT.from_preset(tmp_path / "hf").config.rotary_scaling
    assert scaling == RotaryScaling(method="yarn", factor=4, original_context_length=LONG)
    _edit(tmp_path / "hf", original_max_position_embeddings=ORIGINAL)
    with pytest.raises(ValueError, match=r"config\.json: .*original_max_position_embeddings=32"):
        GPT.from_preset(tmp_path / "hf")


@pytest.mark.parametrize("name", ["linear", "yarn", "yarn-all"])
def test_a_gguf_file_keeps_the_scaling(tmp_path: Path, name: str) -> None:
    """Under llama.cpp's names; the model that comes back computes the same."""
    from keras_gpt.checkpoints.gguf_header import read_header

    gpt = _llama(rotary_scaling=OURS[name])
    gpt.save_to_gguf(tmp_path / "model.gguf", dtype="f32")
    fields, _ = read_header(tmp_path / "model.gguf")
    prefix = "llama.rope.scaling."
    stored = {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
    expected = {"type": OURS[name].method, "factor": 4.0}
    if name != "linear":
        expected |= {
            "original_context_length": ORIGINAL,
            "yarn_beta_fast": OURS[name].beta_fast,
            "yarn_beta_slow": OURS[name].beta_slow,
        }
    if name == "yarn-all":  # llama.cpp multiplies it with 0.1 ln(factor) + 1
        expected["attn_factor"] = pytest.approx(1.3 / (0.1 * np.log(4) + 1))
    assert stored == expected
    again = GPT.from_preset(tmp_path / "model.gguf")
    assert again.config.rotary_scaling is not None
    assert again.config.rotary_scaling.to_dict() == pytest.approx(OURS[name].to_dict())
    ids = random_ids(2, LONG)
    np.testing.assert_allclose(logits_of(again, ids), logits_of(gpt, ids), atol=1e-4)


META = RotaryScaling(
    method="llama3",
    factor=32,
    original_context_length=8192,
    low_freq_factor=1,
    high_freq_factor=4,
)


def test_a_gguf_file_keeps_metas_scaling_as_factors(tmp_path: Path) -> None:
    """One for each pair, computed here from Meta's definition; it comes back as its fields."""
    from keras_gpt.checkpoints.gguf_header import read_header

    gpt = _llama(rotary_scaling=META, rotary_base=500000.0)  # heads are 8 wide
    gpt.save_to_gguf(tmp_path / "model.gguf", dtype="f16")
    fields, places = read_header(tmp_path / "model.gguf")
    assert not [name for name in fields if name.startswith("llama.rope.scaling")]
    place = places["rope_freqs.weight"]
    assert place.shape == (4,)
    factors = np.fromfile(tmp_path / "model.gguf", "<f4", count=4, offset=place.start)
    turns = 8192 / (2 * np.pi) * 500000.0 ** -(np.arange(4) / 4)
    blend = 3 / (turns[2] - 1 + (4 - turns[2]) / 32)
    assert 1 < turns[2] < 4
    np.testing.assert_allclose(factors, [1, 1, blend, 32], rtol=1e-6)
    again = GPT.from_preset(tmp_path / "model.gguf")
    assert again.config.rotary_scaling == META
    ids = random_ids(2, LONG)
    np.testing.assert_allclose(logits_of(again, ids), logits_of(gpt, ids), atol=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"rotary_scaling": OURS["llama3"], "rotary_base": 500000.0},
        {"rotary_scaling": META, "rotary_base": 100.0},  # no pair is divided by the whole factor
        {"rotary_scaling": OURS["dynamic"]},  # llama.cpp has none
    ],
)
def test_a_scaling_that_could_not_be_read_back_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """By its name, and no file is left."""
    with pytest.raises(
        ValueError, match=r"gguf format's Llama has .*cannot be kept.*Received: rotary_sc"
    ):
        _llama(**changes).save_to_gguf(tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
