"""KerasHub's GPT-2 presets: its logits from ours, and ours from its."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from gpt_cases import logits_of, make_gpt, random_ids, small_tokenizer

from keras_gpt import GPT, Tokenizer
from keras_gpt.checkpoints.keras_hub import read_keras_hub
from keras_gpt.generation_settings import GenerationSettings

pytestmark = pytest.mark.filterwarnings("ignore")  # its own


@pytest.fixture(scope="module")
def hub() -> Any:
    return pytest.importorskip("keras_hub")


def _their_logits(backbone: Any, ids: np.ndarray) -> np.ndarray:
    states = backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)}, training=False)
    logits = backbone.token_embedding(states, reverse=True)
    return keras.ops.convert_to_numpy(logits)


@pytest.fixture(scope="module")
def written(hub: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A preset that KerasHub wrote, with a tokenizer and an inner width of its own."""
    tokenizer = small_tokenizer()
    vocabulary = {tokenizer.id_to_token(i): i for i in range(tokenizer.vocab_size)}
    theirs = hub.models.GPT2Tokenizer(vocabulary, [f"{a} {b}" for a, b in tokenizer.merges])
    backbone = hub.models.GPT2Backbone(
        vocabulary_size=tokenizer.vocab_size,
        num_layers=3,
        num_heads=4,
        hidden_dim=32,
        intermediate_dim=72,
        max_sequence_length=24,
    )
    rng = np.random.default_rng(5)
    for weight in backbone.weights:
        if weight.dtype == "float32":
            weight.assign(rng.normal(size=weight.shape) * 0.2)
    preprocessor = hub.models.GPT2CausalLMPreprocessor(theirs, sequence_length=24)
    folder = tmp_path_factory.mktemp("hub") / "preset"
    hub.models.GPT2CausalLM(backbone, preprocessor=preprocessor).save_to_preset(str(folder))
    return folder, backbone


def test_its_preset_gives_its_logits(written: tuple[Path, Any]) -> None:
    """And has its tokenizer."""
    folder, backbone = written
    gpt = GPT.from_preset(folder)
    ids = random_ids(2, 12, high=200)
    assert np.abs(logits_of(gpt, ids) - _their_logits(backbone, ids)).max() < 2e-4
    assert gpt.tokenizer == small_tokenizer()


def test_our_preset_gives_our_logits_there(hub: Any, tmp_path: Path) -> None:
    """As a causal model and as a backbone, with our vocabulary and merges; and back, bit for bit."""
    tokenizer = small_tokenizer()
    gpt = GPT(
        tokenizer.vocab_size,
        32,
        4,
        72,
        3,
        context_length=24,
        tokenizer=tokenizer,
        initializer_range=0.2,
    )
    gpt.save_to_keras_hub(tmp_path / "hub")
    ids = random_ids(2, 12, high=200)
    model = hub.models.GPT2CausalLM.from_preset(str(tmp_path / "hub"))
    assert np.abs(logits_of(gpt, ids) - _their_logits(model.backbone, ids)).max() < 2e-4
    theirs = model.preprocessor.tokenizer
    assert list(theirs.get_vocabulary()) == [
        tokenizer.id_to_token(i) for i in range(len(theirs.vocabulary))
    ]
    assert list(theirs.tokenize(["the cat"])[0]) == tokenizer.encode("the cat")
    backbone = hub.models.GPT2Backbone.from_preset(str(tmp_path / "hub"))
    assert np.abs(logits_of(gpt, ids) - _their_logits(backbone, ids)).max() < 2e-4
    same = GPT.from_preset(tmp_path / "hub")
    assert same.tokenizer == tokenizer
    for a, b in zip(gpt.weights, same.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b), err_msg=a.path
        )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tie_embeddings": False}, "tie_embeddings"),
        ({"norm_placement": "post"}, "norm_placement"),
        ({"positions": "rotary"}, "positions"),
        ({"activation": "relu"}, "activation"),
        ({"attention_windows": (None, 4)}, "attention_windows"),
        ({"norm_epsilon": 1e-6}, "norm_epsilon"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
    ],
)
def test_what_it_has_not_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    """And nothing is written."""
    with pytest.raises(ValueError, match=named):
        make_gpt(**fields).save_to_keras_hub(tmp_path / "hub")
    assert not list(tmp_path.iterdir())


def test_texts_that_it_cannot_handle_are_refused(tmp_path: Path) -> None:
    """A character tokenizer, and another end of a text."""
    gpt = make_gpt()
    gpt.tokenizer = Tokenizer.train_from_texts(["abc"], level="character")
    with pytest.raises(ValueError, match="level='character'"):
        gpt.save_to_keras_hub(tmp_path / "hub")
    gpt.tokenizer = small_tokenizer()
    gpt.generation_settings = GenerationSettings(stop_token_ids=(1,))
    with pytest.raises(ValueError, match="stop_token_ids"):
        gpt.save_to_keras_hub(tmp_path / "hub")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"special_tokens": ["<|endoftext|>", "<|im_end|>"]},
        {"added_tokens": ["<|im_end|>"]},
        {"ignore_merges": True},
        {"nfc": True},
    ],
)
def test_a_tokenizer_that_would_come_back_as_another_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Its tokenizers are made of a vocabulary and merges alone."""
    gpt, old = make_gpt(vocab_size=280), small_tokenizer()
    vocabulary = {old.id_to_token(i): i for i in range(old.vocab_size)}
    gpt.tokenizer = Tokenizer(vocabulary, old.merges, **changes)
    with pytest.raises(ValueError, match=f"tokenizers with {next(iter(changes))}=.*Received"):
        gpt.save_to_keras_hub(tmp_path / "hub")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tokenizer", [None, small_tokenizer()])
def test_settings_that_are_left_out_are_named(
    hub: Any, tmp_path: Path, tokenizer: Tokenizer | None
) -> None:
    """And those that say nothing, or what it does anyway, are not."""
    vocab_size = 270 if tokenizer is None else tokenizer.vocab_size
    gpt = make_gpt(vocab_size=vocab_size, tokenizer=tokenizer)
    end = tokenizer and tokenizer.end_of_text_id
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "KerasHub's GPT-2")
        if end is not None:
            gpt.generation_settings = GenerationSettings(
                stop_token_ids=(end,), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
            )
        gpt.save_to_keras_hub(tmp_path / "quiet")
    gpt.generation_settings = GenerationSettings(
        stop_token_ids=(end or 5,), temperature=0.5, top_k=3, top_p=0.9, chat_template="x"
    )
    names = ["temperature", "top_k", "top_p", "chat_template"]
    names = names if end is not None else ["stop_token_ids", *names]
    with pytest.warns(UserWarning, match=f"left out: {', '.join(names)}"):
        gpt.save_to_keras_hub(tmp_path / "hub")


def _edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text())
    content["config"].update(changes)
    file.write_text(json.dumps(content))


def _class(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(file.read_text().replace("GPT2Backbone", "LlamaBackbone"))


def _cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


NORM = "layers/layer_normalization/vars/0"
TOKENS = "layers/reversible_embedding/vars/0"


def _replace(name: str = NORM, **how: Any) -> Callable[[Path], Any]:
    """Make a function that declares a tensor anew, and writes nothing into it."""

    def replace(folder: Path) -> None:
        (folder / "secret").write_bytes(b"0123" * 9999)
        with h5py.File(folder / "model.weights.h5", "r+") as opened:
            shape = opened[name].shape
            del opened[name]
            opened.create_dataset(name, **{"shape": shape, "dtype": "float32", **how})

    return replace


def _virtual(folder: Path) -> None:
    layout = h5py.VirtualLayout((32,), "float32")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "secret", (32,))
    with h5py.File(folder / "model.weights.h5", "r+") as opened:
        del opened[NORM]
        opened.create_virtual_dataset(NORM, layout)


def _huge(folder: Path) -> None:
    """Declare more numbers than any memory has, in both files."""
    _edit(folder, vocabulary_size=10**12)
    _replace(TOKENS, shape=(10**12, 32), chunks=(64, 32), compression="gzip")(folder)


BROKEN: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "another model": (_class, ValueError, "class_name='LlamaBackbone'"),
    "weights cut short": (lambda f: _cut(f / "model.weights.h5"), ValueError, "damaged or cut"),
    "no weights": (lambda f: (f / "model.weights.h5").unlink(), FileNotFoundError, "weights.h5"),
    "another width": (lambda f: _edit(f, intermediate_dim=73), ValueError, "of another shape"),
    "more layers": (lambda f: _edit(f, num_layers=4), ValueError, "transformer_decoder_3"),
    "more layers than tensors": (
        lambda f: _edit(f, num_layers=10**9),
        ValueError,
        "1000000000 layers. Received: .* tensors",
    ),
    "numbers of another file": (
        _replace(external=[("secret", 0, h5py.h5f.UNLIMITED)]),
        ValueError,
        f"model.weights.h5 must hold .*Received: {NORM}, .*external",
    ),
    "numbers of another HDF5 file": (_virtual, ValueError, f"Received: {NORM}, .*virtual"),
    "numbers that are not there": (_replace(), ValueError, f"{NORM}, of shape .* 0 numbers are"),
    "chunks that are not there": (
        _replace(chunks=(8,), compression="gzip"),
        ValueError,
        f"{NORM}, of shape .* 0 numbers are",
    ),
    "a huge tensor without chunks": (_huge, ValueError, f"{TOKENS}, of shape .* 0 numbers are"),
    "text": (_replace(dtype="S4"), ValueError, f"{NORM}, of dtype"),
    "integers": (_replace(dtype="int32"), ValueError, f"{NORM}, of dtype int32"),
    "no width": (lambda f: _edit(f, hidden_dim=None), ValueError, "hidden_dim"),
    "no merges": (
        lambda f: (f / "assets" / "tokenizer" / "merges.txt").unlink(),
        FileNotFoundError,
        "merges.txt",
    ),
}


def test_compressed_and_bfloat16_numbers_are_read(
    written: tuple[Path, Any], tmp_path: Path
) -> None:
    """The first as others may write them, the second as Keras does."""
    import ml_dtypes

    folder = tmp_path / "preset"
    shutil.copytree(written[0], folder)
    with h5py.File(folder / "model.weights.h5", "r+") as opened:
        tokens, norm = opened[TOKENS][...], opened[NORM][...]
        del opened[TOKENS], opened[NORM]
        opened.create_dataset(TOKENS, data=tokens, chunks=(7, 5), compression="gzip")
        opened.create_dataset(NORM, data=norm.astype(ml_dtypes.bfloat16))
        opened[NORM].attrs["dtype"] = "bfloat16"
    gpt = GPT.from_preset(folder)
    np.testing.assert_array_equal(gpt.token_embedding.embeddings, tokens)
    rounded = norm.astype(ml_dtypes.bfloat16).astype("float32")
    np.testing.assert_array_equal(gpt.final_norm.gamma, rounded)


def test_damaged_bytes_are_refused_by_the_file_s_name(
    written: tuple[Path, Any], tmp_path: Path
) -> None:
    """Wherever they are; those of a number are not noticed."""
    folder = tmp_path / "preset"
    shutil.copytree(written[0], folder)
    file = folder / "model.weights.h5"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 40):
            data[place] = rng.integers(256)
        file.write_bytes(bytes(data))
        try:
            for tensor in read_keras_hub(folder).tensors.values():
                tensor.read()
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 30
    assert all(str(folder) in message for message in refused)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_preset_is_refused(written: tuple[Path, Any], tmp_path: Path, name: str) -> None:
    """With the reason."""
    damage, error, message = BROKEN[name]
    folder = tmp_path / "preset"
    shutil.copytree(written[0], folder)
    damage(folder)
    with pytest.raises(error, match=message):
        GPT.from_preset(folder)


def test_kaggle_s_own_error_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name, and what may be wrong."""
    kagglehub = pytest.importorskip("kagglehub")
    asked = []

    def refuse(handle: str) -> str:
        asked.append(handle)
        raise RuntimeError("no such thing")

    monkeypatch.setattr(kagglehub, "model_download", refuse)
    with pytest.raises(ConnectionError, match=r"kaggle://keras/gpt2.*no such thing"):
        GPT.from_preset("kaggle://keras/gpt2/keras/gpt2_base_en")
    assert asked == ["keras/gpt2/keras/gpt2_base_en"]
