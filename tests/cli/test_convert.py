"""`keras-gpt convert`: a place that is taken is refused before anything is read."""

from pathlib import Path
from typing import Any

import pytest
from gpt_cases import make_gpt
from typer.testing import CliRunner

from keras_gpt import GPT
from keras_gpt.cli import app


def _run(*arguments: Any) -> None:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception


@pytest.mark.parametrize("form", ["hf", "keras-gpt", "keras-hub", "gguf", "onnx"])
def test_a_taken_place_is_refused_before_the_model_is_read(tmp_path: Path, form: str) -> None:
    """There is no such model, and that is not what is said."""
    taken = tmp_path / "taken"
    if form in ("gguf", "onnx"):
        taken.write_bytes(b"mine")
    else:
        taken.mkdir()
        (taken / "mine").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="taken"):
        _run(tmp_path / "no-model", taken, "--to", form)
    file = taken if taken.is_file() else taken / "mine"
    assert file.read_bytes() == b"mine"


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    """Also with --overwrite."""
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotADirectoryError, match="a file stands there"):
        _run("no-model", tmp_path / "file", "--to", "hf", "--overwrite")
    with pytest.raises(IsADirectoryError, match="a folder stands there"):
        _run("no-model", tmp_path / "folder", "--to", "gguf", "--overwrite")


def test_a_model_may_be_converted_onto_itself(tmp_path: Path) -> None:
    """It is read as a whole before its place is taken."""
    gpt = make_gpt()
    gpt.save_to_preset(tmp_path / "gpt")
    _run(tmp_path / "gpt", tmp_path / "gpt", "--to", "hf", "--overwrite")
    assert "model_type" in (tmp_path / "gpt" / "config.json").read_text()
    assert GPT.from_preset(tmp_path / "gpt").config.embedding_dim == gpt.config.embedding_dim


def test_onnx_is_written_as_a_file(tmp_path: Path) -> None:
    """The forward pass alone."""
    onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
    pytest.importorskip("tf2onnx", reason="needs the extra `onnx`")
    make_gpt(num_layers=1).save_to_preset(tmp_path / "gpt")
    _run(tmp_path / "gpt", tmp_path / "gpt.onnx", "--to", "onnx")
    graph = onnx.load(tmp_path / "gpt.onnx").graph
    assert [each.name for each in (*graph.input, *graph.output)] == ["token_ids", "logits"]
