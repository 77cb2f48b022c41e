"""Models of integers from the start: the same, to the bit, as those that `quantize` makes."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gpt_cases import ARCHITECTURES, logits_of, make_gpt, random_ids, small_tokenizer

from keras_gpt import GPT, GPTClassifier
from keras_gpt.checkpoints.checkpoint import tensor_name
from keras_gpt.models import integer_weights

IDS = random_ids(2, 7)


def values(model: Any) -> dict[str, np.ndarray]:
    return {tensor_name(w): keras.ops.convert_to_numpy(w.value) for w in model.weights}


def assert_same(model: Any, other: Any) -> None:
    """Names, dtypes and every bit."""
    wanted, found = values(model), values(other)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Presets of floats, of one layer; a width of 32 fills no group of 4-bit integers."""
    folder = tmp_path_factory.mktemp("floats")
    for name in ("gpt2", "llama"):
        make_gpt(**ARCHITECTURES[name], num_layers=1).save_to_preset(folder / name)
    return {name: folder / name for name in ("gpt2", "llama")}


@pytest.mark.parametrize(
    ("name", "mode", "dtype"),
    [
        ("gpt2", "int8", None),
        ("llama", "int4", None),
        ("llama", "int8", "bfloat16"),
        ("gpt2", "int4", "mixed_bfloat16"),
    ],
)
def test_rounded_while_read_is_rounded_afterwards(
    presets: dict[str, Path], name: str, mode: str, dtype: Any
) -> None:
    """And a model that is read so computes the same."""
    floats = presets[name]
    loaded = GPT.from_preset(floats, dtype=dtype, quantize=mode)
    quantized = GPT.from_preset(floats, dtype=dtype)
    assert quantized.quantized_mode is None
    quantized.quantize(mode)
    assert_same(loaded, quantized)
    assert loaded.quantized_mode == quantized.quantized_mode == mode
    assert loaded.compute_dtype == quantized.compute_dtype
    np.testing.assert_array_equal(logits_of(loaded, IDS), logits_of(quantized, IDS))
    assert {w.dtype for w in loaded.weights if w.path.endswith("_scale")} == {"float32"}


@pytest.mark.parametrize("form", ["huggingface", "gguf", "keras_hub"])
@pytest.mark.filterwarnings("ignore")  # KerasHub's own
def test_every_source_is_rounded_while_it_is_read(tmp_path: Path, form: str) -> None:
    """Also one whose tensors are put together of several, turned, or rounded to 8 bits there."""
    gpt = make_gpt(vocab_size=280, num_layers=1, tokenizer=small_tokenizer())
    if form == "gguf":
        gpt.save_to_gguf(tmp_path / "gpt", dtype="q8_0")
    else:
        getattr(gpt, f"save_to_{form}")(tmp_path / "gpt")
    quantized = GPT.from_preset(tmp_path / "gpt")
    quantized.quantize("int8")
    assert_same(GPT.from_preset(tmp_path / "gpt", quantize="int8"), quantized)


@pytest.mark.parametrize(("name", "mode"), [("llama", "int8"), ("gpt2", "int4")])
def test_a_quantized_model_is_kept(
    presets: dict[str, Path], tmp_path: Path, name: str, mode: str
) -> None:
    """In a preset and in a `.keras` file, and both once more from what was read."""
    floats = presets[name]
    gpt = GPT.from_preset(floats, quantize=mode)
    for turn in ("first", "second"):
        gpt.save_to_preset(tmp_path / turn)
        same = GPT.from_preset(tmp_path / turn, quantize=mode if turn == "second" else None)
        gpt.save(tmp_path / f"{turn}.keras")
        again = keras.saving.load_model(tmp_path / f"{turn}.keras")
        for other in (same, again):
            assert other.quantized_mode == mode
            assert_same(gpt, other)
            np.testing.assert_array_equal(logits_of(other, IDS), logits_of(gpt, IDS))
        gpt = again if turn == "first" else same
    content = json.loads((tmp_path / "first" / "config.json").read_text())
    assert content["quantization"] == mode
    small, large = [
        (folder / "model.safetensors").stat().st_size for folder in (tmp_path / "first", floats)
    ]
    assert small < large * 2 / 3  # of matrices 32 wide; scales and names take their part


def test_a_kept_model_of_half_precision_is_read_in_full(tmp_path: Path) -> None:
    """The integers are the same, and so is what every number stands for."""
    gpt = make_gpt(num_layers=1, dtype="bfloat16")
    gpt.quantize("int8")
    gpt.save_to_preset(tmp_path / "gpt")
    full = GPT.from_preset(tmp_path / "gpt")
    assert full.compute_dtype == "float32"
    for name, value in values(gpt).items():
        np.testing.assert_array_equal(values(full)[name], value.astype(values(full)[name].dtype))


def test_a_classifier_of_integers_is_kept(tmp_path: Path) -> None:
    """Its dense layer stays as it is."""
    mode = "int4"
    classifier = GPTClassifier(make_gpt(num_layers=1), 3)
    classifier.save_to_preset(tmp_path / "floats")
    classifier.quantize(mode)
    assert classifier.head.quantization_mode is None
    assert classifier.quantized_mode == mode
    assert_same(classifier, GPTClassifier.from_preset(tmp_path / "floats", quantize=mode))
    classifier.save_to_preset(tmp_path / "integers")
    classifier.save(tmp_path / "integers.keras")
    for same in (
        GPTClassifier.from_preset(tmp_path / "integers"),
        keras.saving.load_model(tmp_path / "integers.keras"),
    ):
        assert_same(classifier, same)
        np.testing.assert_array_equal(same(IDS), classifier(IDS))


def test_random_weights_in_integers(presets: dict[str, Path]) -> None:
    """They are those of floats, and no zeros."""
    gpt = GPT.from_preset(presets["gpt2"], load_weights=False, quantize="int4")
    assert gpt.quantized_mode == "int4"
    assert np.abs(logits_of(gpt, IDS)).max() > 0
    with pytest.raises(ValueError, match=r"quantize must be None or one of .*'int2'"):
        GPT.from_preset("gpt2", load_weights=False, quantize="int2")


@pytest.mark.parametrize("dtype", ["float8_from_float32", "int4/32_from_float32"])
def test_other_policies_of_integers_are_refused(dtype: str) -> None:
    """No model could be built in them."""
    with pytest.raises(ValueError, match=f"int8_from_float32.*Received: dtype='{dtype}'"):
        make_gpt(dtype=dtype)


def test_integers_of_another_mode_are_refused(tmp_path: Path) -> None:
    """They were made of floats that are gone."""
    gpt = make_gpt(num_layers=1)
    gpt.quantize("int8")
    gpt.save_to_preset(tmp_path / "gpt")
    with pytest.raises(ValueError, match=r"None or 'int8'.*Received: quantize='int4'"):
        GPT.from_preset(tmp_path / "gpt", quantize="int4")
    with pytest.raises(ValueError, match="already quantized"):
        gpt.quantize("int4")
    assert_same(gpt, GPT.from_preset(tmp_path / "gpt"))


def test_a_model_that_is_partly_rounded_is_refused_as_it_is() -> None:
    """No layer before the one that cannot be rounded again is changed."""
    gpt = make_gpt(num_layers=1)
    gpt.blocks[0].attention.qkv.quantize("int8")
    before = [(weight.path, weight.dtype) for weight in gpt.weights]
    for model in (gpt, GPTClassifier(gpt, 2)):
        with pytest.raises(ValueError, match=r"already quantized.*attention/qkv"):
            model.quantize("int8")
    assert [(weight.path, weight.dtype) for weight in gpt.weights] == before


def test_a_config_that_says_otherwise_than_the_weights_is_refused(tmp_path: Path) -> None:
    """Before a number is read."""
    gpt = make_gpt(num_layers=1)
    gpt.quantize("int8")
    gpt.save_to_preset(tmp_path / "gpt")
    file = tmp_path / "gpt" / "config.json"
    content = json.loads(file.read_text())
    for quantization, said in (
        ("int4", "must hold the tensors"),
        (None, "must hold the tensors"),
        ("int3", r"no 'quantization', or one of .*'int3'"),
        (["int8"], r"no 'quantization', or one of .*'int8'"),
    ):
        file.write_text(json.dumps({**content, "quantization": quantization}))
        with pytest.raises(ValueError, match=said):
            GPT.from_preset(tmp_path / "gpt")


def test_a_damaged_quantized_preset_is_refused(tmp_path: Path) -> None:
    """The checksum is that of the integers."""
    gpt = make_gpt(num_layers=1)
    gpt.quantize("int4")
    gpt.save_to_preset(tmp_path / "gpt")
    file = tmp_path / "gpt" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not the file that was saved"):
        GPT.from_preset(tmp_path / "gpt")


@pytest.mark.parametrize("change", ["one layer", "two modes", "lora", "float8"])
def test_what_no_file_could_say_is_not_saved(tmp_path: Path, change: str) -> None:
    """Neither in a preset nor in a `.keras` file."""
    gpt = make_gpt(num_layers=1)
    if change == "one layer":
        gpt.blocks[0].attention.qkv.quantize("int8")
    elif change == "two modes":
        gpt.quantize("int4", filters="block_")
        gpt.quantize("int8", filters="token_embedding")
    elif change == "lora":
        gpt.quantize("int8")
        gpt.blocks[0].attention.qkv.enable_lora(2)
    else:
        gpt.blocks[0].attention.qkv.quantize("float8")
    for save in (gpt.save_to_preset, gpt.save):
        with pytest.raises(ValueError, match=r"as a whole|plain weights.*Received: \d+ changed"):
            save(tmp_path / "gpt.keras")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", ["save_to_huggingface", "save_to_gguf", "save_to_keras_hub"])
def test_formats_of_floats_refuse_integers(tmp_path: Path, way: str) -> None:
    """What the floats were is gone; the message says what to do."""
    gpt = make_gpt(num_layers=1)
    gpt.quantize("int8")
    with pytest.raises(ValueError, match=r"plain weights.*without quantize.*Received"):
        getattr(gpt, way)(tmp_path / "gpt")
    assert not (tmp_path / "gpt").exists()


def test_one_matrix_is_read_at_a_time(
    presets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tensor is asked for before the one before it was taken, and no float variable is made."""
    order: list[str] = []
    opened = integer_weights.load_weights

    def load(checkpoint: Any, variables: Any, takers: Any) -> None:
        def watched(name: str, tensor: Any) -> Any:
            def read() -> np.ndarray:
                order.append(f"read {name}")
                return tensor.read()

            return tensor._replace(read=read)

        def taken(name: str, taker: Any) -> Any:
            def take(floats: np.ndarray) -> None:
                taker.take(floats)
                order.append(f"took {name}")

            return taker._replace(take=take)

        object.__setattr__(
            checkpoint, "tensors", {n: watched(n, t) for n, t in checkpoint.tensors.items()}
        )
        sizes = [w.shape for w in variables if len(w.shape) == 2 and w.dtype != "int8"]
        assert sizes == [(48, 32)]  # the learned positions, which nothing rounds
        opened(checkpoint, variables, {n: taken(n, t) for n, t in takers.items()})

    monkeypatch.setattr(integer_weights, "load_weights", load)
    GPT.from_preset(presets["gpt2"], quantize="int8")
    taken = [each for each in order if each.startswith("took")]
    assert len(taken) == 5
    for each in taken:
        assert order[order.index(each) - 1] == each.replace("took", "read")


def test_integers_are_not_trained_in_vain():
    """What would train hardly anything says so; LoRA, or a head alone, may be trained."""
    gpt = make_gpt(num_layers=1)
    gpt.quantize("int8")
    gpt.compile("sgd")
    with pytest.raises(ValueError, match=r"matrices are integers.*enable_lora"):
        gpt.fit(IDS[:, :-1], IDS[:, 1:], verbose=0)
    classifier = GPTClassifier(gpt, 2)
    with pytest.raises(ValueError, match="matrices are integers"):
        classifier.fit(IDS, np.array([0, 1]), verbose=0)
    gpt.trainable = False
    classifier.fit(IDS, np.array([0, 1]), batch_size=2, verbose=0)


def test_random_weights_are_no_integers_of_zero():
    with pytest.raises(ValueError, match=r"dtype must be a policy of floats.*int8_from_float32"):
        GPT.from_preset("gpt2", load_weights=False, dtype="int8_from_float32")
