"""Preset folders: written whole or not at all, read bit for bit or refused with the reason."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from keras_gpt import GPT, GPTClassifier, GPTConfig, Tokenizer
from keras_gpt.checkpoints import load_weights, read_preset

SMALL = {
    "vocab_size": 300,
    "embedding_dim": 32,
    "num_heads": 4,
    "feed_forward_dim": 64,
    "num_layers": 2,
    "context_length": 32,
}
# The columns of the table of architectures, and what else a config may say.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt1": {"norm_placement": "post"},
    "gpt2": {"embedding_dropout": 0.1, "attention_dropout": 0.1, "residual_dropout": 0.1},
    "gpt3": {"attention_windows": (None, 8)},
    "modern": {
        "normalization": "rms_norm",
        "positions": "rotary",
        "feed_forward": "gated",
        "activation": "silu",
        "num_kv_heads": 2,
        "use_bias": False,
        "tie_embeddings": False,
    },
    "sinusoidal": {
        "positions": "sinusoidal",
        "position_noise": 0.1,
        "activation": "relu",
        "output_activation": "tanh",
        "bidirectional_prefix": True,
    },
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train_from_texts(["the quick brown fox, 日本語 " * 20], vocab_size=300)


@pytest.fixture(scope="module")
def gpt(tokenizer: Tokenizer) -> GPT:
    return _randomized(GPT(**SMALL, tokenizer=tokenizer), 1)


@pytest.fixture
def folder(gpt: GPT, tmp_path: Path) -> Path:
    gpt.save_to_preset(tmp_path / "preset")
    return tmp_path / "preset"


def _randomized(model: Any, seed: int) -> Any:
    """Give every weight values of its own, so that two that were exchanged do not look alike."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def _values(model: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def _assert_equal_weights(first: Any, second: Any) -> None:
    for a, b in zip(_values(first), _values(second), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_comes_back_bit_for_bit(
    tokenizer: Tokenizer, tmp_path: Path, name: str
) -> None:
    """Config, weights, tokenizer and logits."""
    gpt = _randomized(GPT(**SMALL, **ARCHITECTURES[name], tokenizer=tokenizer), 2)
    gpt.save_to_preset(tmp_path / name)
    again = GPT.from_preset(tmp_path / name)
    assert again.config == gpt.config
    assert again.tokenizer == tokenizer
    _assert_equal_weights(again, gpt)
    ids = np.array([[1, 2, 3, 4]])
    np.testing.assert_array_equal(again(ids), gpt(ids))


def test_a_classifier_comes_back_with_its_names(gpt: GPT, tmp_path: Path) -> None:
    """Everything that makes its predictions, and its dropout rate."""
    classifier = _randomized(
        GPTClassifier(gpt, 3, label_names=["坏", "so so", "good"], dropout=0.25), 3
    )
    classifier.save_to_preset(tmp_path / "classifier")
    again = GPTClassifier.from_preset(tmp_path / "classifier")
    assert again.label_names == ["坏", "so so", "good"]
    assert again.dropout_rate == 0.25
    assert again.tokenizer == gpt.tokenizer
    _assert_equal_weights(again, classifier)
    texts = ["the quick", "fox"]
    np.testing.assert_array_equal(again.predict(texts), classifier.predict(texts))


def test_a_model_without_a_tokenizer_comes_back_without_one(tmp_path: Path) -> None:
    """And the folder has no file for it."""
    gpt = GPT(**SMALL)
    gpt.save_to_preset(tmp_path / "plain")
    assert sorted(_content(tmp_path / "plain")) == ["config.json", "model.safetensors"]
    assert GPT.from_preset(tmp_path / "plain").tokenizer is None


def test_the_files_are_what_other_tools_read(folder: Path, gpt: GPT) -> None:
    """JSON with the config, safetensors without our model's name in it, and tokenizer.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert GPTConfig.from_dict(config["config"]) == gpt.config
    tensors = load_file(folder / "model.safetensors")
    assert len(tensors) == len(gpt.weights)
    np.testing.assert_array_equal(
        tensors["token_embedding/embeddings"], gpt.token_embedding.embeddings
    )
    assert Tokenizer.load(folder) == gpt.tokenizer


def test_the_name_of_a_model_does_not_matter(gpt: GPT, tmp_path: Path) -> None:
    """Keras gives a second model in a process another name."""
    named = _randomized(GPT(**SMALL, name="another"), 4)
    named.save_to_preset(tmp_path / "named")
    _assert_equal_weights(GPT.from_preset(tmp_path / "named"), named)


def test_bfloat16_weights_stay_bfloat16_on_disk(tmp_path: Path) -> None:
    """Half the bytes, and bit for bit."""
    gpt = _randomized(GPT(**SMALL, dtype="bfloat16"), 5)
    gpt.save_to_preset(tmp_path / "half")
    again = GPT.from_preset(tmp_path / "half", dtype="bfloat16")
    _assert_equal_weights(again, gpt)
    wide = GPT.from_preset(tmp_path / "half")
    for a, b in zip(_values(wide), _values(gpt), strict=True):
        assert a.dtype == "float32"
        np.testing.assert_array_equal(a, b.astype("float32"))
    full = GPT(**SMALL)
    full.save_to_preset(tmp_path / "full")
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_dtype_may_be_asked_for_when_loading(folder: Path, gpt: GPT) -> None:
    """Float32 weights, rounded; a mixed policy keeps them."""
    half = GPT.from_preset(folder, dtype="bfloat16")
    for a, b in zip(_values(half), _values(gpt), strict=True):
        np.testing.assert_array_equal(a, b.astype(a.dtype))
    mixed = GPT.from_preset(folder, dtype="mixed_bfloat16")
    _assert_equal_weights(mixed, gpt)
    assert mixed(np.array([[1, 2]])).dtype == "bfloat16"


def test_the_architecture_alone(folder: Path, gpt: GPT) -> None:
    """From a folder without its weights, and by a published name."""
    fresh = GPT.from_preset(folder, load_weights=False)
    assert fresh.config == gpt.config
    assert fresh.tokenizer == gpt.tokenizer
    assert any((a != b).any() for a, b in zip(_values(fresh), _values(gpt), strict=True))
    (folder / "model.safetensors").unlink()
    assert GPT.from_preset(folder, load_weights=False).config == gpt.config
    with pytest.raises(ValueError, match="load_weights=False"):
        GPT.from_preset("gpt2")


@pytest.mark.slow
def test_a_published_name_gives_its_architecture() -> None:
    """GPT-2 small, with its own parameter count."""
    gpt = GPT.from_preset("gpt2", load_weights=False)
    assert gpt.config == GPTConfig.preset("gpt2")
    assert gpt.count_params() == 124_439_808


def test_a_folder_goes_before_a_name(
    gpt: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that happens to be called gpt2 is read."""
    gpt.save_to_preset(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    _assert_equal_weights(GPT.from_preset("gpt2"), gpt)


@pytest.mark.parametrize("block", [1, 1000, 4096])
@pytest.mark.parametrize("name", ["gpt2", "modern"])
def test_weights_that_are_set_in_blocks_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, name: str
) -> None:
    """As those of large tensors are; the last block may be a short one, a row longer than one."""
    gpt = _randomized(GPT(**SMALL, **ARCHITECTURES[name]), 8)
    gpt.save_to_preset(tmp_path / name)
    half = GPT.from_preset(tmp_path / name, dtype="bfloat16")
    monkeypatch.setattr("keras_gpt.checkpoints.checkpoint._BLOCK", block)
    _assert_equal_weights(GPT.from_preset(tmp_path / name), gpt)
    _assert_equal_weights(GPT.from_preset(tmp_path / name, dtype="bfloat16"), half)


def test_weights_that_were_set_in_blocks_are_not_copied_at_each_reading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keras_gpt.checkpoints.checkpoint._BLOCK", 1000)
    variable = GPT.from_preset(folder).token_embedding.weights[0]
    readings: list[Any] = [variable.value.read_value() for _ in range(2)]
    first, second = (np.asarray(memoryview(each)).ctypes.data for each in readings)
    assert first == second


def test_weights_come_into_mirrored_variables_too(
    folder: Path, gpt: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which cannot be set in blocks."""
    import tensorflow as tf

    monkeypatch.setattr("keras_gpt.checkpoints.checkpoint._BLOCK", 1000)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        _assert_equal_weights(GPT.from_preset(folder), gpt)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own numbers")
def test_memory_stays_near_the_models_size_while_loading_and_saving(tmp_path: Path) -> None:
    """GPT-2's 475 MB, of which one tensor has 147: in a process of its own, without the imports."""
    script = """
import sys, threading, time, keras, keras_gpt
def own():
    lines = open("/proc/self/status").readlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
def peak_of(work):
    highest, done = [own()], []
    def watch():
        while not done:
            highest.append(own())
            time.sleep(0.002)
    watcher = threading.Thread(target=watch)
    watcher.start()
    result = work()
    done.append(True)
    watcher.join()
    return result, max(highest)
keras.ops.convert_to_tensor(0)
if sys.argv[1] == "save":
    gpt = keras_gpt.GPT.from_preset("gpt2", load_weights=False)
    before = own()
    _, peak = peak_of(lambda: gpt.save_to_preset(sys.argv[2]))
else:
    before = own()
    gpt, peak = peak_of(lambda: keras_gpt.GPT.from_preset(sys.argv[2]))
print(peak - before)
"""
    peaks = [
        float(
            subprocess.run(
                [sys.executable, "-c", script, what, str(tmp_path / "gpt2")],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for what in ("save", "load")
    ]
    assert peaks[0] < 0.75 * 475  # beyond the model, which is there already
    assert peaks[1] < 1.5 * 475


# Broken presets


def _cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _change(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _flip(folder: Path) -> None:
    """Change one bit of the last number."""
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def _config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8")


def _edit(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _config(folder, json.dumps({**content, **changes}))


BROKEN: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "weights cut short": (_cut, ValueError, "damaged or cut short"),
    "empty weights": (
        lambda f: (f / "model.safetensors").write_bytes(b""),
        ValueError,
        "damaged or cut short",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        FileNotFoundError,
        "no file .*model.safetensors",
    ),
    "a bit changed": (_flip, ValueError, "model.safetensors is not the file that was saved"),
    "another shape": (
        lambda f: _change(f, lambda t: t.update({"final_norm/gamma": np.zeros(31, "float32")})),
        ValueError,
        r"final_norm/gamma is \(31,\), not \(32,\)",
    ),
    "a missing tensor": (
        lambda f: _change(f, lambda t: t.pop("final_norm/gamma")),
        ValueError,
        r"missing \['final_norm/gamma'\]",
    ),
    "one tensor too many": (
        lambda f: _change(f, lambda t: t.update(more=np.zeros(2, "float32"))),
        ValueError,
        r"extra \['more'\]",
    ),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        FileNotFoundError,
        "must hold a config.json",
    ),
    "config is no JSON": (lambda f: _config(f, "{"), ValueError, "not valid JSON"),
    "config is a list": (lambda f: _config(f, "[]"), ValueError, "must be a JSON object"),
    "another library's config": (
        lambda f: _config(f, '{"type": "gpt2", "n_embd": 768}'),
        ValueError,
        "save_to_preset wrote",
    ),
    "a later version": (lambda f: _edit(f, version=99), ValueError, "version=99"),
    "config without its parts": (
        lambda f: _config(f, '{"format": "keras_gpt", "version": 1}'),
        ValueError,
        "must have 'model'",
    ),
    **{
        f"a config of {name}={value}": (
            lambda f, name=name, value=value: _edit(f, config={**SMALL, name: value}),
            ValueError,
            "model.safetensors must hold the tensors that its config .*Received: .* tensors",
        )
        for name, value in (
            ("num_layers", 10**9),
            ("vocab_size", 10**12),
            ("embedding_dim", 4 * 10**9),
            ("feed_forward_dim", 10**12),
            ("context_length", 10**12),
        )
    },
    "an unknown field": (
        lambda f: _edit(f, config={**SMALL, "wings": 2}),
        ValueError,
        r"unknown \['wings'\]",
    ),
    "a field out of range": (
        lambda f: _edit(f, config={**SMALL, "num_heads": 5}),
        ValueError,
        "num_heads must divide",
    ),
    "another class": (
        lambda f: _edit(f, model="GPTClassifier"),
        ValueError,
        "must hold a GPT",
    ),
    "config nested too deeply": (
        lambda f: _config(f, "[" * 200_000),
        ValueError,
        "config.json is not valid JSON",
    ),
    **{
        f"generation is {value!r}": (
            lambda f, value=value: _edit(f, generation=value),
            ValueError,
            "config.json, 'generation': .*Received",
        )
        for value in (5, [1], "abc", {"temperature": 10**400}, {"top_p": "x"})
    },
    "a tokenizer nested too deeply": (
        lambda f: (f / "tokenizer.json").write_text("[" * 200_000),
        ValueError,
        "tokenizer.json must be JSON",
    ),
    "broken tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        ValueError,
        "tokenizer.json",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_preset_is_refused_with_the_reason(folder: Path, name: str) -> None:
    """What is wrong, and where."""
    damage, error, message = BROKEN[name]
    damage(folder)
    with pytest.raises(error, match=message):
        GPT.from_preset(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The path that was given is in the message."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        GPT.from_preset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        GPTClassifier.from_preset(tmp_path / "nowhere")


def test_a_gpt_is_no_classifier(folder: Path) -> None:
    """Nor the other way round, which stands above."""
    with pytest.raises(ValueError, match=r"must hold a GPTClassifier.*holds a GPT"):
        GPTClassifier.from_preset(folder)
    _edit(folder, model="GPTClassifier", config={"num_classes": 2})
    with pytest.raises(ValueError, match="vocab_size"):
        GPTClassifier.from_preset(folder)
    for wrong in ({}, {"num_classes": 2, "wings": 2}, {"num_classes": 2, "label_names": 5}):
        _edit(folder, config={"gpt": SMALL, **wrong})
        with pytest.raises(ValueError, match=r"must have num_classes.*Received"):
            GPTClassifier.from_preset(folder)
    for huge in (
        {"gpt": SMALL, "num_classes": 10**12},
        {"gpt": {**SMALL, "num_layers": 10**9}, "num_classes": 2},
    ):
        _edit(folder, config=huge)
        with pytest.raises(ValueError, match=r"must hold the tensors.*Received"):
            GPTClassifier.from_preset(folder)
    _edit(folder, config={"gpt": 5, "num_classes": 2})
    with pytest.raises(ValueError, match="fields must be a dictionary"):
        GPTClassifier.from_preset(folder)


@pytest.mark.parametrize(
    "name", ["another shape", "a missing tensor", "weights cut short", "a bit changed"]
)
def test_weights_that_do_not_fit_change_nothing(folder: Path, gpt: GPT, name: str) -> None:
    """All is compared before the first value is set, so no model is half of each."""
    BROKEN[name][0](folder)
    model = _randomized(GPT(**SMALL), 6)
    before = _values(model)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_weights(read_preset(folder), model.weights)
    for a, b in zip(_values(model), before, strict=True):
        np.testing.assert_array_equal(a, b)


# What was there is not lost


def test_a_folder_with_content_is_kept_unless_overwritten(folder: Path, gpt: GPT) -> None:
    """Then it is replaced as a whole."""
    before = _content(folder)
    other = _randomized(GPT(**SMALL), 7)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        other.save_to_preset(folder)
    assert _content(folder) == before
    (folder / "notes.txt").write_text("mine")
    other.save_to_preset(folder, overwrite=True)
    assert sorted(_content(folder)) == ["config.json", "model.safetensors"]
    _assert_equal_weights(GPT.from_preset(folder), other)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_breaks_off_leaves_the_old_folder(
    folder: Path, gpt: GPT, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A full disk in the middle of the weights, or the user's interrupt."""
    before = _content(folder)
    left = 0
    convert = keras.ops.convert_to_numpy

    def fail(value: Any) -> np.ndarray:
        nonlocal left
        left -= 1
        if left == 0:
            raise error
        return convert(value)

    monkeypatch.setattr("keras.ops.convert_to_numpy", fail)
    for target, overwrite in ((folder, True), (folder.parent / "new", False)):
        left = 5
        with pytest.raises(type(error)):
            gpt.save_to_preset(target, overwrite=overwrite)
        assert left == 0
    assert _content(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_weights_changed_on_purpose_are_read_without_the_digest(folder: Path) -> None:
    """As the message says; presets of older releases have none either."""
    _flip(folder)
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del content["weights_sha256"]
    _config(folder, json.dumps(content))
    GPT.from_preset(folder)


@pytest.mark.slow
def test_a_file_size_limit_leaves_the_old_folder(folder: Path) -> None:
    """The operating system's own refusal, in a process of its own."""
    before = _content(folder)
    script = (
        "import resource, signal, sys, keras_gpt\n"
        "gpt = keras_gpt.GPT.from_preset(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try:\n"
        "    gpt.save_to_preset(sys.argv[1], overwrite=True)\n"
        "except OSError as error:\n"
        "    print('refused:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
    )
    assert "refused:" in done.stdout
    assert _content(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_lora_weights_are_refused_when_saving(tmp_path: Path) -> None:
    """And not when the preset is read again, when it is too late."""
    gpt = GPT(**SMALL)
    gpt.blocks[0].attention.qkv.enable_lora(2)
    with pytest.raises(ValueError, match=r"plain weights.*Received"):
        gpt.save_to_preset(tmp_path / "changed")
    assert not (tmp_path / "changed").exists()
