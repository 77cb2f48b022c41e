"""The forward pass as ONNX: the same logits in onnxruntime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_gpt import GPT

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("tf2onnx", reason="needs the extra `onnx`")

KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"attention_windows": (4,)},
    "modern": {
        "normalization": "rms_norm",
        "positions": "rotary",
        "feed_forward": "gated",
        "activation": "silu",
        "use_bias": False,
        "num_heads": 4,
        "num_kv_heads": 2,
        "tie_embeddings": False,
    },
    "gpt1": {"norm_placement": "post", "positions": "sinusoidal", "output_activation": "tanh"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_model(
    make_gpt: Callable[..., GPT], tmp_path: Path, kind: str
) -> None:
    """For every batch and length."""
    gpt = make_gpt(num_layers=1, context_length=32, **KINDS[kind])
    gpt.export(tmp_path / "gpt.onnx", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "gpt.onnx")
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, output.name) == ("token_ids", "tensor(int32)", "logits")
    for shape in ((1, 1), (2, 17), (3, 32)):
        ids = np.random.default_rng(0).integers(0, 300, shape).astype("int32")
        (logits,) = session.run(None, {"token_ids": ids})
        np.testing.assert_allclose(logits, gpt(ids), rtol=1e-4, atol=1e-4)


def test_a_file_is_not_overwritten_unasked(make_gpt: Callable[..., GPT], tmp_path: Path) -> None:
    """And the old one is there until the new one is whole."""
    (tmp_path / "gpt.onnx").write_text("mine")
    gpt = make_gpt(num_layers=1, context_length=8)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        gpt.export(tmp_path / "gpt.onnx", format="onnx")
    assert (tmp_path / "gpt.onnx").read_text() == "mine"
    gpt.export(tmp_path / "gpt.onnx", format="onnx", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["gpt.onnx"]
    onnxruntime.InferenceSession(tmp_path / "gpt.onnx")


def test_other_weights_than_float32_are_refused(
    make_gpt: Callable[..., GPT], tmp_path: Path
) -> None:
    """Whether they are of another dtype or integers."""
    gpt = make_gpt(num_layers=1, context_length=8, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"models of float32.*bfloat16"):
        gpt.export(tmp_path / "gpt.onnx", format="onnx")
    gpt = make_gpt(num_layers=1, context_length=8)
    gpt.quantize("int8")
    with pytest.raises(ValueError, match="an ONNX file holds plain weights"):
        gpt.export(tmp_path / "gpt.onnx", format="onnx")
    assert list(tmp_path.iterdir()) == []
