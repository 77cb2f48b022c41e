"""OpenAI's own releases of GPT-1 and GPT-2, in exactly the files that they came in."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from gpt_cases import logits_of, random_ids, small_tokenizer

from keras_gpt import GPT
from keras_gpt.checkpoints.checkpoint import named_tensors


def _randomized(gpt: GPT) -> dict[str, np.ndarray]:
    """Give every weight values of its own; return them by name."""
    rng = np.random.default_rng(3)
    for weight in gpt.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.2)
    return _values(gpt)


def _values(gpt: GPT) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in named_tensors(gpt.weights).items()}


def _assert_same(gpt: GPT, values: dict[str, np.ndarray]) -> None:
    for name, value in _values(gpt).items():
        np.testing.assert_array_equal(value, values[name], err_msg=name)


# GPT-2

LAYERS = 2


def _gpt2_names() -> dict[str, str]:
    """Our names -> those of OpenAI's checkpoint, written down from its code's variable scopes."""
    names = {
        "token_embedding/embeddings": "model/wte",
        "position_embedding/table": "model/wpe",
        "final_norm/gamma": "model/ln_f/g",
        "final_norm/beta": "model/ln_f/b",
    }
    for layer in range(LAYERS):
        for ours, theirs in (
            ("attention_norm/gamma", "ln_1/g"),
            ("attention_norm/beta", "ln_1/b"),
            ("attention/qkv/kernel", "attn/c_attn/w"),
            ("attention/qkv/bias", "attn/c_attn/b"),
            ("attention/projection/kernel", "attn/c_proj/w"),
            ("attention/projection/bias", "attn/c_proj/b"),
            ("feed_forward_norm/gamma", "ln_2/g"),
            ("feed_forward_norm/beta", "ln_2/b"),
            ("feed_forward/up/kernel", "mlp/c_fc/w"),
            ("feed_forward/up/bias", "mlp/c_fc/b"),
            ("feed_forward/down/kernel", "mlp/c_proj/w"),
            ("feed_forward/down/bias", "mlp/c_proj/b"),
        ):
            names[f"block_{layer}/{ours}"] = f"model/h{layer}/{theirs}"
    return names


@pytest.fixture
def gpt2(tmp_path: Path) -> tuple[Path, GPT]:
    """A release of a small model, written by TensorFlow's own saver."""
    tokenizer = small_tokenizer()
    gpt = GPT(tokenizer.vocab_size, 32, 4, 128, LAYERS, context_length=24)
    values = _randomized(gpt)
    folder = tmp_path / "117M"
    folder.mkdir()
    names = _gpt2_names()
    with tf.Graph().as_default():
        variables = []
        for ours, theirs in names.items():
            value = values[ours][None] if ours.endswith("/kernel") else values[ours]
            variables.append(tf.compat.v1.get_variable(theirs, initializer=value))
        saver = tf.compat.v1.train.Saver(variables)
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            saver.save(session, str(folder / "model.ckpt"))
    numbers = {"n_vocab": tokenizer.vocab_size, "n_ctx": 24, "n_embd": 32, "n_head": 4}
    (folder / "hparams.json").write_text(json.dumps({**numbers, "n_layer": LAYERS}))
    vocabulary = {tokenizer.id_to_token(i): i for i in range(tokenizer.vocab_size)}
    (folder / "encoder.json").write_text(json.dumps(vocabulary))
    merges = "\n".join(f"{left} {right}" for left, right in tokenizer.merges)
    (folder / "vocab.bpe").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    return folder, gpt


def test_gpt2_s_release_is_read(gpt2: tuple[Path, GPT]) -> None:
    """Bit for bit, with its tokenizer."""
    folder, gpt = gpt2
    same = GPT.from_preset(folder)
    assert same.config == gpt.config
    assert same.tokenizer == small_tokenizer()
    ids = random_ids(2, 9, high=200)
    np.testing.assert_array_equal(logits_of(same, ids), logits_of(gpt, ids))


def test_gpt2_s_release_is_rounded_while_it_is_read(gpt2: tuple[Path, GPT]) -> None:
    """To the integers that the model of floats is rounded to."""
    folder, gpt = gpt2
    gpt.quantize("int4")
    values = _values(gpt)
    same = GPT.from_preset(folder, quantize="int4")
    assert len(same.weights) == len(values)
    _assert_same(same, values)


def test_a_checkpoint_s_path_elsewhere_is_not_followed(gpt2: tuple[Path, GPT]) -> None:
    """The `checkpoint` file may name a path of the machine that it was made on."""
    folder, gpt = gpt2
    text = 'model_checkpoint_path: "/somewhere/else/model.ckpt"\n'
    (folder / "checkpoint").write_text(text)
    same = GPT.from_preset(folder)
    ids = random_ids(1, 5, high=200)
    np.testing.assert_array_equal(logits_of(same, ids), logits_of(gpt, ids))


def _change_hparams(folder: Path, **changes: Any) -> None:
    file = folder / "hparams.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _cut(file: Path, keep: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


DATA = "model.ckpt.data-00000-of-00001"
BROKEN_GPT2: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "data cut short": (lambda f: _cut(f / DATA, 0.8), ValueError, "damaged, cut short"),
    "a bit changed": (lambda f: _flip(f / DATA), ValueError, "damaged, cut short"),
    "no data": (lambda f: (f / DATA).unlink(), ValueError, "damaged, cut short"),
    "index cut short": (lambda f: _cut(f / "model.ckpt.index", 0.5), ValueError, "damaged"),
    "no index": (lambda f: (f / "model.ckpt.index").unlink(), FileNotFoundError, r"model\.ckpt"),
    "another width": (lambda f: _change_hparams(f, n_embd=64), ValueError, "of another shape"),
    "more layers": (lambda f: _change_hparams(f, n_layer=3), ValueError, "missing .*model/h2"),
    "more layers than tensors": (
        lambda f: _change_hparams(f, n_layer=10**9),
        ValueError,
        "1000000000 layers. Received: .* tensors",
    ),
    "fewer layers": (lambda f: _change_hparams(f, n_layer=1), ValueError, "extra .*model/h1"),
    "no heads": (lambda f: _change_hparams(f, n_head=None), ValueError, "n_head"),
    "heads that do not divide": (
        lambda f: _change_hparams(f, n_head=0),
        ValueError,
        "hparams.json: num_heads must be",
    ),
    "no encoder": (lambda f: (f / "encoder.json").unlink(), FileNotFoundError, "encoder.json"),
    "no merges": (lambda f: (f / "vocab.bpe").unlink(), FileNotFoundError, "vocab.bpe"),
}


@pytest.mark.parametrize("name", BROKEN_GPT2)
def test_a_broken_gpt2_release_is_refused(gpt2: tuple[Path, GPT], name: str) -> None:
    """With the reason."""
    damage, error, message = BROKEN_GPT2[name]
    damage(gpt2[0])
    with pytest.raises(error, match=message):
        GPT.from_preset(gpt2[0])


# GPT-1

GPT1_ORDER = [
    "attention/qkv/kernel",
    "attention/qkv/bias",
    "attention/projection/kernel",
    "attention/projection/bias",
    "attention_norm/gamma",
    "attention_norm/beta",
    "feed_forward/up/kernel",
    "feed_forward/up/bias",
    "feed_forward/down/kernel",
    "feed_forward/down/bias",
    "feed_forward_norm/gamma",
    "feed_forward_norm/beta",
]


@pytest.fixture
def gpt1(tmp_path: Path, shared_data: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A release of a small model with the real tokenizer: ten files, cut at no particular place."""
    gpt = GPT(40478, 128, 2, 512, 2, context_length=32, norm_placement="post")
    values = _randomized(gpt)
    order = ["position_embedding/table", "token_embedding/embeddings"]
    order += [f"block_{layer}/{name}" for layer in range(2) for name in GPT1_ORDER]
    arrays = [values[n][None] if n.endswith("/kernel") else values[n] for n in order]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "params_shapes.json").write_text(json.dumps([a.shape for a in arrays]))
    row = np.concatenate([array.ravel() for array in arrays])
    for number, piece in enumerate(np.array_split(row, 10)):
        np.save(folder / f"params_{number}.npy", piece)
    for name in ("encoder_bpe_40000.json", "vocab_40000.bpe"):
        shutil.copy(shared_data / "bpe" / "gpt1" / name, folder)
    return folder, values


def test_gpt1_s_release_is_read(gpt1: tuple[Path, dict[str, np.ndarray]]) -> None:
    """Bit for bit, with its tokenizer, and it generates."""
    folder, values = gpt1
    gpt = GPT.from_preset(folder)
    _assert_same(gpt, values)
    assert gpt.config.norm_placement == "post"
    assert gpt.tokenizer is not None
    assert gpt.tokenizer.level == "gpt1"
    assert gpt.generate("Hello World", max_new_tokens=4, seed=0).startswith("hello world")


@pytest.mark.filterwarnings("ignore")
def test_gpt1_s_logits_are_those_of_transformers(
    gpt1: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """Through our own way to its format; the tokenizers agree too."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    gpt = GPT.from_preset(gpt1[0])
    gpt.save_to_huggingface(tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    ids = np.array([gpt.tokenizer.encode("The cat sat on the mat, he said.")])  # type: ignore[union-attr]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    assert np.abs(logits_of(gpt, ids) - expected).max() < 2e-4
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer("The cat sat on the mat, he said.")["input_ids"] == ids[0].tolist()


def test_the_real_shapes_are_those_of_our_preset(shared_data: Path) -> None:
    """The release's own list, against the architecture by name."""
    from keras_gpt import GPTConfig
    from keras_gpt.checkpoints.openai_gpt1 import _config, _read_shapes

    file = shared_data / "bpe" / "gpt1" / "params_shapes.json"
    assert _config(_read_shapes(file), file.parent) == GPTConfig.preset("gpt1")


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, np.zeros(9, "float32"))
    return file.getvalue()


BROKEN_GPT1: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "a file cut short": (
        lambda f: _cut(f / "params_4.npy", 0.5),
        ValueError,
        "params_4.npy is dam",
    ),
    "a file missing": (lambda f: (f / "params_4.npy").unlink(), FileNotFoundError, "no params_4"),
    "a file of a high number": (
        lambda f: (f / "params_9999999999.npy").touch(),
        FileNotFoundError,
        "no params_10",
    ),
    "no files": (
        lambda f: [file.unlink() for file in f.glob("params_*.npy")],
        FileNotFoundError,
        "no params_0",
    ),
    "the last file missing": (
        lambda f: (f / "params_9.npy").unlink(),
        ValueError,
        "is one missing",
    ),
    "a pickle": (
        lambda f: np.save(f / "params_3.npy", np.array([{}], object), allow_pickle=True),
        ValueError,
        "params_3.npy is damaged",
    ),
    "an archive of arrays": (
        lambda f: (f / "params_3.npy").write_bytes(_npz()),
        ValueError,
        "params_3.npy is damaged",
    ),
    "another dtype": (
        lambda f: np.save(f / "params_3.npy", np.zeros(9)),
        ValueError,
        "one row of float32",
    ),
    "shapes that are no list": (
        lambda f: (f / "params_shapes.json").write_text("{}"),
        ValueError,
        "must list the shapes",
    ),
    "another width": (
        lambda f: (f / "params_shapes.json").write_text(
            (f / "params_shapes.json").read_text().replace("128", "96")
        ),
        ValueError,
        "multiple of 64",
    ),
    "no tokenizer": (
        lambda f: (f / "vocab_40000.bpe").unlink(),
        FileNotFoundError,
        "vocab_40000.bpe",
    ),
}


@pytest.mark.parametrize("name", BROKEN_GPT1)
def test_a_broken_gpt1_release_is_refused(
    gpt1: tuple[Path, dict[str, np.ndarray]], name: str
) -> None:
    """With the reason."""
    damage, error, message = BROKEN_GPT1[name]
    damage(gpt1[0])
    with pytest.raises(error, match=message):
        GPT.from_preset(gpt1[0])
