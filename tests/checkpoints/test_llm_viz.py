"""A trained minGPT with every activation that PyTorch recorded: ours are the same."""

import base64
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_gpt import GPT
from keras_gpt.checkpoints.checkpoint import tensor_name
from keras_gpt.layers import attention_mask

TOLERANCE = 1e-5


def _arrays(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    content = json.loads(file.read_text())
    config = content.pop("config")
    arrays = {
        name: np.frombuffer(base64.b64decode(each["data"]), "<f4").reshape(each["shape"])
        for name, each in content.items()
        if isinstance(each, dict) and "data" in each
    }
    return config, arrays


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> dict[str, np.ndarray]:
    return _arrays(shared_data / "reference" / "llm_viz" / "gpt-nano-sort-t0-partials.json")[1]


@pytest.fixture(scope="module")
def gpt(shared_data: Path) -> GPT:
    config, theirs = _arrays(shared_data / "reference" / "llm_viz" / "gpt-nano-sort-model.json")
    width = config["n_embd"]
    model = GPT(
        config["vocab_size"],
        width,
        config["n_head"],
        4 * width,
        config["n_layer"],
        context_length=config["block_size"],
        tie_embeddings=False,
    )
    names = {
        "token_embedding/embeddings": "transformer.wte.weight",
        "token_embedding/reverse_embeddings": "lm_head.weight",
        "position_embedding/table": "transformer.wpe.weight",
        "final_norm/gamma": "transformer.ln_f.weight",
        "final_norm/beta": "transformer.ln_f.bias",
    }
    for layer in range(config["n_layer"]):
        ours, other = f"block_{layer}", f"transformer.h.{layer}"
        for norm, name in (("attention_norm", "ln_1"), ("feed_forward_norm", "ln_2")):
            names[f"{ours}/{norm}/gamma"] = f"{other}.{name}.weight"
            names[f"{ours}/{norm}/beta"] = f"{other}.{name}.bias"
        for dense, name in (
            ("attention/qkv", "attn.c_attn"),
            ("attention/projection", "attn.c_proj"),
            ("feed_forward/up", "mlp.c_fc"),
            ("feed_forward/down", "mlp.c_proj"),
        ):
            names[f"{ours}/{dense}/kernel"] = f"{other}.{name}.weight"
            names[f"{ours}/{dense}/bias"] = f"{other}.{name}.bias"
    for weight in model.weights:
        name = tensor_name(weight)
        value = theirs[names[name]]
        # torch's Linear keeps (out, in), and so do our dense layers.
        weight.assign(value.T if name.endswith("/reverse_embeddings") else value)
    return model


def _close(ours: Any, expected: np.ndarray) -> None:
    difference = np.abs(keras.ops.convert_to_numpy(ours) - expected).max()
    assert difference < TOLERANCE


def test_logits_and_probabilities(gpt: GPT, recorded: dict[str, np.ndarray]) -> None:
    """Of the three inputs."""
    logits = gpt(recorded["idx"].astype("int32"), training=False)
    _close(logits, recorded["lm_head"])
    _close(keras.ops.softmax(logits, axis=-1), recorded["probs"])


def test_every_block(gpt: GPT, recorded: dict[str, np.ndarray]) -> None:
    """The sum of embeddings, what each block gives, and the last norm."""
    ids = recorded["idx"].astype("int32")
    time = ids.shape[1]
    tokens = gpt.token_embedding(ids)
    positions = gpt.position_embedding(np.arange(time)[None])
    _close(tokens, recorded["tok_emb"])
    _close(positions, recorded["pos_emb"])
    states = tokens + positions
    _close(states, recorded["x"])
    for layer, block in enumerate(gpt.blocks):
        states = block(states, attention_mask(time), None, training=False)
        _close(states, recorded[f"block{layer}"])
    _close(gpt.final_norm(states), recorded["ln_f"])


def test_inside_the_first_block(gpt: GPT, recorded: dict[str, np.ndarray]) -> None:
    """Norms, queries, keys and values, attention, and the feed-forward layer."""
    block, time = gpt.blocks[0], recorded["x"].shape[1]
    normed = block.attention_norm(recorded["x"])
    _close(normed, recorded["ln1"])
    _close(block.attention.qkv(normed), recorded["qkv"])
    attended, kept = block.attention.prefill(normed, attention_mask(time), None)
    _close(kept.keys, recorded["k"])
    _close(kept.values, recorded["v"])
    _close(attended, recorded["yProj"])
    _close(recorded["x"] + attended, recorded["attnResid"])
    second = block.feed_forward_norm(recorded["attnResid"])
    _close(second, recorded["ln2"])
    _close(block.feed_forward.up(second), recorded["fc"])
    _close(block.feed_forward(second), recorded["mlp"])
    _close(recorded["attnResid"] + recorded["mlp"], recorded["mlpResid"])
