"""Every example runs as a user runs it: in a process of its own, in an empty folder."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from keras_gpt import GPT, GPTClassifier
from keras_gpt.data import LabelledText, embedded_labelled

ROOT = Path(__file__).resolve().parents[2]


def output_of(name: str, *arguments: str, cwd: Path) -> str:
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    # The flags of our own tests compile fast; what they compile trains ten times as slowly.
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def number_after(words: str, output: str) -> float:
    found = re.search(re.escape(words) + r"\s+(-?[\d.]+)", output)
    assert found, f"{words!r} is not in {output}"
    return float(found.group(1))


def assert_png(path: Path) -> None:
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def write_json_lines(data: LabelledText, path: Path) -> None:
    lines = [
        json.dumps({"text": text, "label": data.label_names[label]})
        for text, label in zip(data.texts, data.labels.tolist(), strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_classify_text(tmp_path: Path) -> None:
    data = embedded_labelled()
    families = [data.label_names.index(name) for name in ("networking", "numbers and time")]
    chosen = data.take([row for row, label in enumerate(data.labels) if label in families])
    test, train = chosen.split(0.75, seed=0)
    write_json_lines(train, tmp_path / "train.jsonl")
    write_json_lines(test, tmp_path / "test.jsonl")
    settings = {
        "data": "train.jsonl",
        "test-data": "test.jsonl",
        "vocab-size": "800",
        "context-length": "32",
        "pretrain-steps": "40",
        "epochs": "4",
        "learning-rate": "1e-3",
        "picture": "pictures/confusion.png",
        "text": "Open a socket and connect to the server.",
        "output": "kept",
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    output = output_of("classify_text", *flags, cwd=tmp_path)

    assert f"{len(train)} training texts, {len(test)} test texts" in output
    baseline = number_after("majority baseline", output)
    assert baseline == pytest.approx((test.labels == families[0]).mean(), abs=1e-4)
    assert number_after("test accuracy", output) > baseline
    assert_png(tmp_path / "pictures" / "confusion.png")
    assert "<- 'Open a socket and connect to the server.'" in output
    # What was kept is the classifier that answered, and it is laid out for a server.
    kept = GPTClassifier.from_preset(tmp_path / "kept" / "preset")
    (label,) = kept.classify(["Open a socket and connect to the server."])
    assert re.search(rf"0\.\d\d {label}\s+<- 'Open a socket", output)
    assert (tmp_path / "kept/saved_models/classifier/1/saved_model.pb").is_file()


@pytest.mark.parametrize("name", ["classify_text", "train_and_generate"])
def test_what_is_there_is_refused_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    monkeypatch.setattr(sys, "argv", [name, "--output", str(tmp_path)])
    with pytest.raises(SystemExit):
        example["parse_arguments"]()
    message = f"--output must be a new folder. Received: {tmp_path}"
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_classify_text_as_it_is(tmp_path: Path) -> None:
    output = output_of("classify_text", cwd=tmp_path)
    accuracy = number_after("test accuracy", output)
    assert accuracy >= number_after("majority baseline", output) + 0.25
    assert_png(tmp_path / "confusion.png")


def test_train_and_generate(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    flags = ["text.txt", "--quick", "--prompt", "The model", "--compare", "Export", "a GPT"]
    output = output_of("train_and_generate", *flags, "--output", "run", cwd=tmp_path)

    assert output.count("sample after epoch") == 3
    assert number_after("validation loss", output) > 0
    assert number_after("unigram baseline", output) > 0
    assert_png(tmp_path / "run" / "loss.png")
    assert re.search(r"^The model.", output, re.MULTILINE), output  # the stream
    gpt = GPT.from_preset(tmp_path / "run" / "model")
    texts = ["Export", "a GPT"]
    for text, score in zip(texts, gpt.score(texts), strict=True):
        shown = re.search(rf"log P =\s+(-[\d.]+) .*{text!r}", output)
        assert shown, output
        assert float(shown.group(1)) == pytest.approx(score, abs=0.006)


def test_serve_with_tensorflow(tmp_path: Path) -> None:
    output = output_of("serve_with_tensorflow", "--quick", cwd=tmp_path)
    assert "status:  AVAILABLE" in output
    # The example itself compares rows, columns and GPT.generate, and stops where they differ.
    assert "the server's text is that of GPT.generate for this seed" in output
    assert "'log_probability': [-" in output
    assert "error:   400 " in output
    assert "tensorflow/serving" in output
    assert "the server ended with status 0" in output
    assert list(tmp_path.iterdir()) == []


def test_fit_your_own_way(tmp_path: Path) -> None:
    output = output_of("fit_your_own_way", "--quick", cwd=tmp_path)
    assert 0.0 <= number_after("top3=", output.replace("top3=", "top3= ")) <= 1.0
    loss = number_after("next-token loss", output)
    assert 0 < loss < number_after("guessing gives", output)
    ids = json.loads(output.splitlines()[-1])
    assert ids[:2] == [5, 8]
    assert len(ids) <= 12
    assert all(0 <= each < 64 for each in ids)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_fit_your_own_way_as_it_is(tmp_path: Path, dtype: str) -> None:
    output = output_of("fit_your_own_way", "--dtype", dtype, cwd=tmp_path)
    # Two ids decide all that follow up to the end, so little is left to guess.
    assert number_after("next-token loss", output) < 1.0
    ids = json.loads(output.splitlines()[-1])
    assert ids[:6] == [5, 8, 11, 14, 17, 20]
