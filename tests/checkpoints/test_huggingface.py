"""Hugging Face's folders: the same logits as its library, and the same bits back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gpt_cases import logits_of, make_gpt, random_ids, small_tokenizer
from safetensors.numpy import load_file, save_file

from keras_gpt import GPT
from keras_gpt.checkpoints.huggingface_reader import read_huggingface
from keras_gpt.generation_settings import GenerationSettings

LLAMA = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "activation": "silu",
    "num_kv_heads": 2,
    "use_bias": False,
}


def _same_weights(first: GPT, second: GPT) -> None:
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(_value(a), _value(b), err_msg=a.path)


def _value(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)


# Without the library


@pytest.mark.parametrize(
    "fields",
    [
        {"norm_placement": "post", "feed_forward_dim": 128},
        {"tie_embeddings": False, "activation": "relu"},
        {**LLAMA, "rotary_base": 500.0},
        {**LLAMA, "tie_embeddings": False},
    ],
    ids=["gpt1", "gpt2", "llama", "llama-untied"],
)
def test_our_own_way_there_and_back(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Config, weights, tokenizer and settings all return."""
    tokenizer = small_tokenizer()
    settings = GenerationSettings(
        stop_token_ids=(3, 5), temperature=0.5, top_k=7, top_p=0.9, chat_template="{{ messages }}"
    )
    inner = fields.pop("feed_forward_dim", 64)
    gpt = GPT(
        tokenizer.vocab_size,
        32,
        4,
        inner,
        2,
        context_length=24,
        tokenizer=tokenizer,
        generation_settings=settings,
        **fields,
    )
    gpt.save_to_huggingface(tmp_path / "hf")
    same = GPT.from_preset(tmp_path / "hf")
    assert same.config == GPT(**gpt.config.to_dict()).config
    assert same.tokenizer == tokenizer
    assert same.generation_settings.stop_token_ids == (3, 5)
    assert same.generation_settings.temperature == 0.5
    assert (same.generation_settings.top_k, same.generation_settings.top_p) == (7, 0.9)
    assert same.generation_settings.chat_template == "{{ messages }}"
    _same_weights(gpt, same)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"attention_windows": (None, 5)}, "attention_windows"),
        ({"positions": "sinusoidal"}, "positions"),
        ({"output_activation": "tanh"}, "output_activation"),
        ({"norm_placement": "post"}, "feed_forward_dim"),
        ({"bidirectional_prefix": True}, "bidirectional_prefix"),
        ({"positions": "rotary"}, "normalization"),
        ({"use_bias": False}, "use_bias"),
        ({"num_kv_heads": 2}, "key_value_heads"),
    ],
)
def test_what_the_format_has_not_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    """And nothing is written."""
    with pytest.raises(ValueError, match=named):
        make_gpt(**fields).save_to_huggingface(tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_weights_are_cast_on_the_way_in(tmp_path: Path) -> None:
    """`dtype=` decides what the variables are."""
    gpt = make_gpt(**LLAMA)
    gpt.save_to_huggingface(tmp_path / "hf")
    half = GPT.from_preset(tmp_path / "hf", dtype="bfloat16")
    assert {weight.dtype for weight in half.weights} == {"bfloat16"}
    half.save_to_huggingface(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    whole = GPT.from_preset(tmp_path / "half")
    np.testing.assert_allclose(_value(whole.weights[0]), _value(gpt.weights[0]), rtol=2**-8)


def test_shards_are_read_in_place_of_one_file(tmp_path: Path) -> None:
    """The index says which file holds which tensor."""
    gpt = make_gpt()
    gpt.save_to_huggingface(tmp_path / "hf")
    _shard(tmp_path / "hf")
    _same_weights(GPT.from_preset(tmp_path / "hf"), gpt)


def _shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_names_without_the_prefix_and_unused_tensors_are_known(tmp_path: Path) -> None:
    """The first uploads of GPT-2 have neither prefix nor head, but masks."""
    gpt = make_gpt()
    gpt.save_to_huggingface(tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(file).items()}
    tensors["h.0.attn.bias"] = np.tril(np.ones((1, 1, 48, 48), "float32"))
    tensors["h.1.attn.masked_bias"] = np.array(-1e4, "float32")
    tensors["lm_head.weight"] = tensors["wte.weight"].copy()
    save_file(tensors, file)
    _same_weights(GPT.from_preset(tmp_path / "hf"), gpt)


# With the library

ARCHITECTURES = [
    "gpt2",
    "gpt2-odd",
    "gpt2-one-head",
    "gpt2-untied",
    "gpt1",
    "llama",
    "llama-tied",
    pytest.param("gpt2-small", marks=pytest.mark.slow),
    pytest.param("gpt1-whole", marks=pytest.mark.slow),
]
# The published size, with the published spread of random weights.
WHOLE = {
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
    "initializer_range": 0.02,
}


def _theirs(name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    gpt2 = {"n_embd": 48, "n_head": 4, "n_layer": 3, "n_positions": 96, "vocab_size": 211}
    if name.startswith("gpt2"):
        changes: dict[str, Any] = {
            "gpt2": {},
            "gpt2-odd": {"n_inner": 77, "n_embd": 36, "n_head": 3, "activation_function": "gelu"},
            "gpt2-one-head": {"n_head": 1},
            "gpt2-untied": {"tie_word_embeddings": False},
            "gpt2-small": WHOLE,
        }[name]
        config = transformers.GPT2Config(**{"initializer_range": 0.2, **gpt2, **changes})
        model = transformers.GPT2LMHeadModel(config)
    elif name.startswith("gpt1"):
        changes = WHOLE if name == "gpt1-whole" else {}
        config = transformers.OpenAIGPTConfig(**{"initializer_range": 0.2, **gpt2, **changes})
        model = transformers.OpenAIGPTLMHeadModel(config)
    else:
        config = transformers.LlamaConfig(
            vocab_size=211,
            hidden_size=48,
            intermediate_size=100,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=96,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
            tie_word_embeddings=name == "llama-tied",
            initializer_range=0.2,
        )
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():  # biases and norms too, which start as zeros and ones
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def _their_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids, dtype=torch.long)).logits.numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_and_continuations_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    """From its weights: the same logits, and greedily the same 64 tokens."""
    theirs = _theirs(name)
    theirs.save_pretrained(tmp_path / "hf")
    ours = GPT.from_preset(tmp_path / "hf")
    ids = random_ids(2, 30, high=211)
    assert np.abs(logits_of(ours, ids) - _their_logits(theirs, ids)).max() < 2e-4
    import torch

    prompt = ids[:1, :12]
    expected = theirs.generate(
        torch.tensor(prompt, dtype=torch.long),
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0].tolist()
    assert (
        ours.generate(prompt[0].tolist(), max_new_tokens=64, temperature=0, stop_token_ids=[])
        == expected
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_way_back_gives_the_same_bits(tmp_path: Path, name: str) -> None:
    """Theirs -> ours -> theirs: each tensor as it was, and the library misses nothing."""
    theirs = _theirs(name)
    theirs.save_pretrained(tmp_path / "hf")
    GPT.from_preset(tmp_path / "hf").save_to_huggingface(tmp_path / "back")
    before = load_file(tmp_path / "hf" / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert sorted(before) == sorted(after)
    for key, value in before.items():
        np.testing.assert_array_equal(value, after[key], err_msg=key)
    loaded, report = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = random_ids(1, 20, high=211)
    np.testing.assert_array_equal(_their_logits(loaded.eval(), ids), _their_logits(theirs, ids))


@pytest.mark.filterwarnings("ignore")
def test_the_tokenizer_and_settings_travel_to_the_library(tmp_path: Path) -> None:
    """AutoTokenizer gives our ids, and generation stops where ours does."""
    transformers = pytest.importorskip("transformers")
    tokenizer = small_tokenizer()
    settings = GenerationSettings(stop_token_ids=(7,), temperature=0.3, eos_token="<|endoftext|>")
    gpt = GPT(tokenizer.vocab_size, 32, 4, 64, 1, tokenizer=tokenizer, generation_settings=settings)
    gpt.save_to_huggingface(tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "the cat sat, 日本語 🙂\n\n on the mat."
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.eos_token_id == tokenizer.end_of_text_id
    config = transformers.GenerationConfig.from_pretrained(tmp_path / "hf")
    assert config.eos_token_id == 7
    assert config.temperature == 0.3
    assert config.do_sample


@pytest.mark.filterwarnings("ignore")
def test_torch_files_are_read_by_the_weights_only_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch; without it the error says what to do, and a pickle of anything else is refused."""
    torch = pytest.importorskip("torch")
    theirs = _theirs("gpt2")
    theirs.save_pretrained(tmp_path / "hf")
    expected = GPT.from_preset(tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    file = tmp_path / "hf" / "pytorch_model.bin"
    torch.save(theirs.state_dict(), file)
    _same_weights(GPT.from_preset(tmp_path / "hf"), expected)

    torch.save(dict(theirs.named_parameters()), file)  # they ask for gradients
    _same_weights(GPT.from_preset(tmp_path / "hf"), expected)
    half = {name: value.bfloat16() for name, value in theirs.state_dict().items()}
    torch.save(half, file)
    rounded = half["transformer.ln_f.weight"].float().numpy()
    np.testing.assert_array_equal(
        _value(GPT.from_preset(tmp_path / "hf").final_norm.gamma), rounded
    )

    norm = theirs.state_dict()["transformer.ln_f.weight"]
    for odd, reason in (
        (norm.to_sparse(), "torch.sparse_coo"),
        (norm.to(torch.float8_e4m3fn), "dtype torch.float8_e4m3fn"),
        (norm.to(torch.complex64), "dtype torch.complex64"),
        (torch.quantize_per_tensor(norm, 0.1, 0, torch.qint8), "dtype torch.qint8"),
        (norm.to("meta"), "device meta"),
        (torch.ones(1).expand(len(norm)), "of which 1 numbers are there"),
    ):
        torch.save({**theirs.state_dict(), "transformer.ln_f.weight": odd}, file)
        with pytest.raises(
            ValueError, match=f"plain tensors.*'transformer.ln_f.weight', .*{reason}"
        ):
            read_huggingface(tmp_path / "hf")

    torch.save({5: norm}, file)
    with pytest.raises(ValueError, match=r"must hold tensors only\. Received: 5"):
        read_huggingface(tmp_path / "hf")
    torch.save({"transformer.wte.weight": print}, file)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is damaged, cut short, or holds"):
        GPT.from_preset(tmp_path / "hf")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ImportError, match="install torch"):
        GPT.from_preset(tmp_path / "hf")


# Broken folders


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = small_tokenizer()
    gpt = GPT(tokenizer.vocab_size, 32, 4, 64, 2, context_length=24, tokenizer=tokenizer)
    folder = tmp_path_factory.mktemp("sound") / "hf"
    gpt.save_to_huggingface(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    return Path(shutil.copytree(sound, tmp_path / "hf"))


def _edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _edit_llama(folder: Path, **changes: Any) -> None:
    content = {
        "model_type": "llama",
        "vocab_size": 270,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "max_position_embeddings": 24,
    }
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


def _edit_tensors(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def _cut(file: Path, keep: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])


def _index(folder: Path, shard: str) -> None:
    _shard(folder)
    file = folder / "model.safetensors.index.json"
    content = json.loads(file.read_text())
    content["weight_map"]["transformer.wte.weight"] = shard
    file.write_text(json.dumps(content))


def _header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def _overlap(header: dict[str, Any]) -> None:
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]


def _no_tokenizer_json(folder: Path, keep: str) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    if keep == "vocab.json":
        (folder / keep).write_text(json.dumps(state["model"]["vocab"]))
    else:
        (folder / keep).write_text("#version: 0.2\n")


WEIGHTS = "model.safetensors"
BROKEN: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "weights cut short": (lambda f: _cut(f / WEIGHTS, 0.7), ValueError, "damaged or cut short"),
    "weights cut in the header": (
        lambda f: _cut(f / WEIGHTS, 0.01),
        ValueError,
        "damaged or cut short",
    ),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), ValueError, "damaged"),
    "weights that are something else": (
        lambda f: (f / WEIGHTS).write_bytes(b"<html>not found</html>" * 99),
        ValueError,
        "damaged",
    ),
    "overlapping tensors": (lambda f: _header(f, _overlap), ValueError, "damaged"),
    "offsets beyond the end": (
        lambda f: _header(
            f, lambda h: h["transformer.wte.weight"].update(data_offsets=[0, 10**12])
        ),
        ValueError,
        "damaged",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), FileNotFoundError, "model.safetensors"),
    "a missing tensor": (
        lambda f: _edit_tensors(f, lambda t: t.pop("transformer.h.1.mlp.c_fc.bias")),
        ValueError,
        r"missing \['transformer.h.1.mlp.c_fc.bias'\]",
    ),
    "an extra tensor": (
        lambda f: _edit_tensors(f, lambda t: t.update(more=np.zeros(3, "float32"))),
        ValueError,
        r"extra \['transformer.more'\]",
    ),
    "a wrong shape": (
        lambda f: _edit(f, n_inner=65),
        ValueError,
        r"of another shape .*c_fc.bias is \(64,\), not \(65,\)",
    ),
    "another vocabulary": (
        lambda f: _edit(f, vocab_size=999),
        ValueError,
        "wte.weight is",
    ),
    "a missing shard": (
        lambda f: _index(f, "model-00007-of-00002.safetensors"),
        FileNotFoundError,
        "model-00007",
    ),
    "a shard outside the folder": (
        lambda f: _index(f, "../../secret.safetensors"),
        ValueError,
        "bare file names",
    ),
    "an absolute shard": (lambda f: _index(f, "/etc/passwd"), ValueError, "bare file names"),
    "an index that lies": (
        lambda f: _index(f, "model-00002-of-00002.safetensors") or _drop_first(f),
        ValueError,
        "same tensors",
    ),
    "another architecture": (
        lambda f: _edit(f, model_type="bert"),
        ValueError,
        "model_type='bert'",
    ),
    "an unknown activation": (
        lambda f: _edit(f, activation_function="mish"),
        ValueError,
        "activation_function='mish'",
    ),
    "unscaled attention": (
        lambda f: _edit(f, scale_attn_weights=False),
        ValueError,
        "scale_attn_weights",
    ),
    "a config without a width": (lambda f: _edit(f, n_embd=None), ValueError, "'n_embd'"),
    "more layers than there are tensors": (
        lambda f: _edit(f, n_layer=10**9),
        ValueError,
        "1000000000 layers. Received: .* tensors",
    ),
    "a Llama of more layers than there are tensors": (
        lambda f: _edit_llama(f, num_hidden_layers=10**9),
        ValueError,
        "1000000000 layers. Received: .* tensors",
    ),
    "heads that do not divide": (lambda f: _edit(f, n_head=5), ValueError, "num_heads"),
    "a config that is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        ValueError,
        "JSON object",
    ),
    "a config cut short": (lambda f: _cut(f / "config.json", 0.5), ValueError, "not valid JSON"),
    "no config": (lambda f: (f / "config.json").unlink(), FileNotFoundError, "config.json"),
    "a tokenizer without merges": (
        lambda f: _no_tokenizer_json(f, "vocab.json"),
        FileNotFoundError,
        "merges.txt",
    ),
    "a tokenizer without vocabulary": (
        lambda f: _no_tokenizer_json(f, "merges.txt"),
        FileNotFoundError,
        "vocab.json",
    ),
    "a tokenizer cut short": (
        lambda f: _cut(f / "tokenizer.json", 0.9),
        ValueError,
        "tokenizer.json must be JSON",
    ),
    "another head than the config says": (
        lambda f: _edit_tensors(
            f, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1})
        ),
        ValueError,
        "lm_head.weight differs",
    ),
    **{
        f"a config with {name}={value!r:.20}": (
            lambda f, name=name, value=value: _edit(f, **{name: value}),
            ValueError,
            f"config.json.*Received: {name}=",
        )
        for name, value in (
            ("model_type", ["gpt2"]),
            ("activation_function", ["gelu"]),
            ("n_embd", {}),
            ("n_embd", -32),
            ("n_layer", True),
        )
    },
    **{
        f"a Llama's config with {name}={value!r:.20}": (
            lambda f, name=name, value=value: _edit_llama(f, **{name: value}),
            ValueError,
            f"config.json: .*Received: {name if ours is None else ours}=",
        )
        for name, value, ours in (
            ("num_attention_heads", 0, None),
            ("num_attention_heads", "4", None),
            ("rope_parameters", "x", None),
            ("rope_scaling", ["x"], None),
            ("rms_norm_eps", 10**400, "norm_epsilon"),
            ("rms_norm_eps", float("inf"), "norm_epsilon"),
        )
    },
    "a config nested too deeply": (
        lambda f: (f / "config.json").write_text("[" * 200_000),
        ValueError,
        "config.json is not valid JSON",
    ),
    **{
        f"chat templates that are {value!r}": (
            lambda f, value=value: (f / "tokenizer_config.json").write_text(
                json.dumps({"chat_template": value})
            ),
            ValueError,
            "generation settings of .*hf: chat_template must be a string",
        )
        for value in (["x"], [{"name": [], "template": "x"}], 5)
    },
    **{
        f"added tokens that are {value!r}": (
            lambda f, value=value: (f / "tokenizer_config.json").write_text(
                json.dumps({"added_tokens_decoder": value})
            ),
            ValueError,
            "tokenizer_config.json: added_tokens_decoder must name tokens by id",
        )
        for value in ({"270": {}}, {"270": {"content": []}}, {"270": "x"}, {"x": {"content": "x"}})
    },
    "added tokens without ids": (
        lambda f: (f / "added_tokens.json").write_text('{"<a>": "x", "<b>": 271}'),
        ValueError,
        "added_tokens.json must give each token an id",
    ),
    "settings out of range": (
        lambda f: (f / "generation_config.json").write_text('{"top_p": 7}'),
        ValueError,
        "top_p",
    ),
}


def _drop_first(folder: Path) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(file)
    tensors.pop(min(tensors))
    save_file(tensors, file)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_by_name(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any weight of a model is changed."""
    BROKEN[name][0](folder)
    loaded: list[Any] = []
    monkeypatch.setattr("keras_gpt.models.formats.load_into", lambda *args: loaded.append(args))
    with pytest.raises(BROKEN[name][1], match=BROKEN[name][2]):
        GPT.from_preset(folder)
    assert not loaded


def test_files_that_are_no_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    """A zip of the folder, an empty folder, and what is not there."""
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    with pytest.raises(ValueError, match="unpack the archive"):
        GPT.from_preset(archive)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        GPT.from_preset(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        GPT.from_preset(tmp_path / "nowhere")
