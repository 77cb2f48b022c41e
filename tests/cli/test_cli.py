"""The command line: each verb on small files, its files and words, and its errors."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import pytest
from typer.testing import CliRunner

import keras_gpt
from keras_gpt import GPT, GPTClassifier, Tokenizer
from keras_gpt.cli import app, main
from keras_gpt.data import TokenCorpus

VERBS = ["demo", "train", "finetune", "generate", "evaluate", "export", "serve", "tokenizer"]
VERBS += ["corpus", "chat", "models", "convert"]
TINY = ["--embedding-dim", "16", "--num-heads", "2", "--num-layers", "1", "--context-length", "16"]
TRAIN = [*TINY, "--steps", "6", "--batch-size", "4", "--evaluate-every", "4"]


@pytest.fixture(autouse=True)
def _same_policy() -> Iterator[None]:
    """`train --dtype` sets Keras' global policy, as a process of its own may."""
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def _run(*arguments: Any, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON lines, and a plain file beside them."""
    folder = tmp_path_factory.mktemp("text")
    documents = [f"The answer to question {n} is {n * 7 % 50}, as you know." for n in range(200)]
    lines = [json.dumps({"body": document}) for document in documents]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "b.txt").write_text("Some more words, and 日本語.\n" * 30, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `train` on the plain file and the JSON lines."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    output = _run(
        "train", folder, "--text", text / "a.jsonl", "--text", text / "b.txt",
        "--text-field", "body", "--vocab-size", 300, *TRAIN, "--checkpoint-every", 3,
        "--tensorboard", "--sample", "The answer", "--dropout", 0.1,
    )  # fmt: skip
    assert "300 ids" not in output
    assert "validation loss" in output
    assert "unigram baseline" in output
    assert "sample after epoch" in output
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    return run / "model"


# Making tokenizers, corpora and models


def test_tokenizer_and_corpus(text: Path, tmp_path: Path) -> None:
    """Two verbs by themselves; the corpus is not overwritten unasked."""
    output = _run("tokenizer", text / "b.txt", "--output", tmp_path / "t", "--vocab-size", 280)
    tokenizer = Tokenizer.load(tmp_path / "t")
    assert output == f"{tokenizer.vocab_size} ids in {tmp_path / 't'}\n"
    arguments = [
        "corpus", text / "a.jsonl", "--output", tmp_path / "c", "--tokenizer", tmp_path / "t",
        "--text-field", "body", "--validation-fraction", 0.2,
    ]  # fmt: skip
    output = _run(*arguments)
    corpus = TokenCorpus.open(tmp_path / "c", tokenizer)
    assert f"{corpus.num_tokens('train'):,} training" in output
    with pytest.raises(FileExistsError, match="overwrite=True"):
        _run(*arguments)
    _run(*arguments, "--overwrite")


def test_a_character_tokenizer(text: Path, tmp_path: Path) -> None:
    """The level is an option."""
    _run("tokenizer", text / "b.txt", "--output", tmp_path / "t", "--level", "character")
    assert Tokenizer.load(tmp_path / "t").level == "character"


def test_a_run_leaves_a_model_and_its_curve(run: Path) -> None:
    """Everything in one folder, with the settings that `--resume` reads."""
    gpt = GPT.from_preset(run / "model")
    assert gpt.config.embedding_dim == 16
    assert gpt.config.residual_dropout == 0.1
    assert gpt.tokenizer == TokenCorpus.open(run / "corpus").tokenizer
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step-00000003",
        "step-00000006",
    ]
    assert json.loads((run / "run.json").read_text())["steps"] == 6
    assert list((run / "tensorboard" / "train").iterdir())


def test_a_run_is_not_begun_twice_but_resumed(run: Path, text: Path, tmp_path: Path) -> None:
    """From its own settings; a run that lost its end and its model gets both again."""
    with pytest.raises(FileExistsError, match="--resume"):
        _run("train", run, "--text", text / "b.txt")
    with pytest.raises(FileNotFoundError, match="folder of a run"):
        _run("train", tmp_path / "nowhere", "--resume")
    before = GPT.from_preset(run / "model")
    # As after a kill between step 3 and the end.
    import shutil

    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000006")
    output = _run("train", tmp_path / "run", "--resume")
    assert "going on from step 3" in output
    after = GPT.from_preset(tmp_path / "run" / "model")
    for a, b in zip(after.weights, before.weights, strict=True):
        assert (a.numpy() == b.numpy()).all()
    # As after a kill between the last step and the model.
    shutil.rmtree(tmp_path / "run" / "model")
    _run("train", tmp_path / "run", "--resume")
    again = GPT.from_preset(tmp_path / "run" / "model")
    for a, b in zip(again.weights, before.weights, strict=True):
        assert (a.numpy() == b.numpy()).all()


def test_a_run_that_was_broken_off_in_its_corpus_can_be_resumed(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings are kept before the long work begins."""
    with monkeypatch.context() as patch:

        def interrupt(*args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(TokenCorpus, "from_files", interrupt)
        _run("train", tmp_path / "r", "--text", text / "b.txt", *TRAIN, code=130)
    assert not (tmp_path / "r" / "corpus").exists()
    with monkeypatch.context() as patch:
        import keras_gpt.training as training

        patch.setattr(training, "train", interrupt)
        _run("train", tmp_path / "r", "--resume", code=130)
    assert TokenCorpus.open(tmp_path / "r" / "corpus").num_tokens("train") > 100


def test_what_is_wrong_with_a_run_can_be_put_right(text: Path, tmp_path: Path) -> None:
    """A wrong argument is named before the work, and the same folder can be used again."""
    for arguments, message in (
        (["--text", text / "b.txt", "--num-heads", 3], "num_heads must divide"),
        (["--text", text / "nowhere.txt"], "nowhere.txt"),
        (["--text", text / "b.txt", "--preset", "gpt9"], "gpt9"),
        (["--text", text / "b.txt", "--corpus", "c"], "--text or --corpus"),
        ([], "--text or --corpus"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            _run("train", tmp_path / "r", *arguments)
        assert not (tmp_path / "r" / "run.json").exists()
        assert not (tmp_path / "r" / "corpus").exists()
    _run("train", tmp_path / "r", "--text", text / "b.txt", "--steps", 0, code=2)


# Using a model


def test_generate_prints_prompt_and_continuation(model: Path, run: Path) -> None:
    """The same text as in Python; a run's folder stands for its model."""
    settings = ["--max-new-tokens", 5, "--seed", 1, "--top-k", 20]
    expected = GPT.from_preset(model).generate("The answer", max_new_tokens=5, seed=1, top_k=20)
    assert _run("generate", run, "The answer", *settings) == expected + "\n"


def test_a_short_context_has_room_by_default(model: Path) -> None:
    """Of 16 tokens, 8 are for the prompt."""
    expected = GPT.from_preset(model).generate("The answer", max_new_tokens=8, temperature=0.0)
    assert _run("generate", model, "The answer", "--temperature", 0) == expected + "\n"


def test_generate_searches_with_beams(model: Path) -> None:
    settings = ("--num-beams", 3, "--length-penalty", 0.5, "--max-new-tokens", 6)
    expected = GPT.from_preset(model).generate(
        "The answer", max_new_tokens=6, num_beams=3, length_penalty=0.5
    )
    assert _run("generate", model, "The answer", *settings) == expected + "\n"


def test_generate_cuts_a_long_prompt_where_it_is_told_to(model: Path) -> None:
    """What is left out is counted; without being told it is an error."""
    prompt = "The answer to question 3 is " * 3
    settings = ["--max-new-tokens", 5, "--temperature", 0]
    with pytest.raises(ValueError, match="truncate='left', 'right' or 'middle'"):
        _run("generate", model, prompt, *settings)
    gpt = GPT.from_preset(model)
    wanted = {"max_new_tokens": 5, "temperature": 0, "truncate": "middle", "echo": False}
    answer = gpt.generate(prompt, details=True, **wanted)
    output = _run("generate", model, prompt, *settings, "--truncate", "middle")
    length = len(gpt.tokenizer.encode(prompt))
    said = f"[{answer.dropped_prompt_tokens} of the prompt's {length} tokens were left out]\n"
    assert answer.dropped_prompt_tokens == length + 5 - gpt.config.context_length
    assert output == f"{said}{prompt}{answer.text}\n"


def test_generate_gives_several_answers(model: Path) -> None:
    """Numbered, and each its own."""
    settings = ["--max-new-tokens", 5, "--seed", 1, "--num-return-sequences", 2]
    output = _run("generate", model, "The answer", *settings)
    expected = GPT.from_preset(model).generate(
        "The answer", max_new_tokens=5, seed=1, num_return_sequences=2
    )
    assert output == f"--- 1\n{expected[0]}\n--- 2\n{expected[1]}\n"


def test_a_keras_file_is_a_model_too(model: Path, tmp_path: Path) -> None:
    """By its name."""
    GPT.from_preset(model).save(tmp_path / "gpt.keras")
    output = _run("generate", tmp_path / "gpt.keras", "The answer", "--temperature", 0,
                  "--max-new-tokens", 3)  # fmt: skip
    assert output.startswith("The answer")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="holds a Sequential"):
        _run("generate", tmp_path / "other.keras", "The answer")


def test_evaluate_gives_perplexity(model: Path, text: Path) -> None:
    """And bits per byte from the same loss."""
    output = _run("evaluate", model, "--text", text / "b.txt")
    values = dict(line.rsplit(None, 1) for line in output.splitlines() if "nats" not in line)
    tokens = int(values["tokens"].replace(",", ""))
    loss = float(output.splitlines()[0].split()[1])
    assert float(values["perplexity"]) == pytest.approx(2.718281828**loss, rel=1e-3)
    num_bytes = len((text / "b.txt").read_bytes())
    expected = loss * tokens / 0.693147 / num_bytes
    assert float(values["bits per byte"]) == pytest.approx(expected, rel=0.01)
    with pytest.raises(ValueError, match="--text, --task or --pairs"):
        _run("evaluate", model)


def test_evaluate_gives_rouge_and_bleu(model: Path, tmp_path: Path) -> None:
    """Of greedy answers; a line without its fields is named."""
    pytest.importorskip("rouge_score", reason="RougeL needs the extra `metrics`")
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"source": "The answer", "target": "is 3"}, {"source": "Some", "target": "more"}]
    pairs.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    output = _run("evaluate", model, "--pairs", pairs, "--max-new-tokens", 4)
    assert [line.split()[0] for line in output.splitlines()] == ["ROUGE-L", "BLEU", "pairs"]
    assert all(0 <= float(line.split()[-1]) <= 1 for line in output.splitlines()[:2])
    pairs.write_text('{"source": "a"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1"):
        _run("evaluate", model, "--pairs", pairs)


def test_finetune_trains_on_the_larger_part(model: Path, tmp_path: Path) -> None:
    """And reports on the rest, which it has not seen."""
    rows = [f"{'fine' if n % 2 else 'dull'} film {n}\t{n % 2}" for n in range(30)]
    data = tmp_path / "films.tsv"
    data.write_text("text\tlabel\n" + "\n".join(rows), encoding="utf-8")
    arguments = ["finetune", model, data, "--output", tmp_path / "clf", "--epochs", 1]
    output = _run(*arguments, "--test-fraction", 0.2)
    assert "24 training texts, 6 test texts" in output
    assert "majority baseline 0.5000" in output
    classifier = GPTClassifier.from_preset(tmp_path / "clf")
    assert classifier.label_names == ["0", "1"]
    assert (tmp_path / "clf" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        _run(*arguments)
    with pytest.raises(ValueError, match="must be a GPT"):
        _run("generate", tmp_path / "clf", "The answer")
    _run("export", tmp_path / "clf", tmp_path / "saved" / "1")
    assert (tmp_path / "saved" / "1" / "saved_model.pb").is_file()


def test_export_writes_a_saved_model_once(model: Path, tmp_path: Path) -> None:
    """A second time only by choice."""
    path = tmp_path / "saved" / "1"
    said, files = _run("export", model, path).splitlines()
    assert said == f"exported {model} to {path}"
    assert str(tmp_path / "models.config") in files
    assert (path / "saved_model.pb").is_file()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        _run("export", model, path)
    _run("export", model, path, "--overwrite")


@pytest.mark.slow
def test_the_demo_on_a_text_of_ones_own(tmp_path: Path) -> None:
    """From text to the answer of another process, with all its files in the given places."""
    source = tmp_path / "source.txt"
    files = sorted(Path(keras_gpt.__file__).parent.rglob("*.py"))
    source.write_text("\n".join(file.read_text(encoding="utf-8") for file in files))
    output = _run(
        "demo", "--corpus", source, "--minutes", 0.02, "--output", tmp_path / "models" / "1",
        "--work", tmp_path / "work",
    )  # fmt: skip
    for words in ("tokenizer", "unigram baseline", "perplexity", "samples", "received", "done in"):
        assert words in output
    assert "the same text as gpt.generate gives" in output
    assert (tmp_path / "models" / "1" / "saved_model.pb").is_file()
    assert (tmp_path / "work" / "loss.png").is_file()
    assert GPT.from_preset(tmp_path / "work" / "model").tokenizer is not None


# Help and errors


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_the_defaults(verb: str) -> None:
    """Of every option that has one."""
    output = _run(verb, "--help")
    assert "Usage" in output
    defaults = {"train": "1000", "demo": "2.0", "serve": "127.0.0.1", "finetune": "32"}
    if verb in defaults:
        assert f"[default: {defaults[verb]}" in output


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["keras-gpt", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "nowhere", "a"], "error: source must be a folder"),
        (["train", "{tmp}/r", "--text", "nowhere.txt"], "error: "),
        (["train", "{tmp}/r", "--resume"], "error: OUTPUT must be the folder of a run"),
        (
            ["corpus", "a.txt", "--output", "{tmp}/c", "--tokenizer", "nowhere"],
            "error: --tokenizer",
        ),
        (["finetune", "nowhere", "nowhere.tsv", "--output", "{tmp}/c"], "error: "),
        (["evaluate", "nowhere"], "error: give --text, --task or --pairs"),
    ],
)
def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    """And no traceback, and nothing is left behind."""
    code = _main(monkeypatch, *[argument.format(tmp=tmp_path) for argument in arguments])
    text = capsys.readouterr().err
    assert code == 1
    assert text.startswith(message)
    assert "Traceback" not in text
    assert "Received: " in text or "No such file or directory: 'nowhere" in text
    assert len(text.splitlines()) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_a_broken_preset_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: Path,
    tmp_path: Path,
) -> None:
    """Half of the weights' file."""
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    data = (model / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert _main(monkeypatch, "generate", tmp_path, "a") == 1
    assert "damaged or cut short" in capsys.readouterr().err


def test_a_developer_gets_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a variable of the environment."""
    monkeypatch.setenv("KERAS_GPT_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["keras-gpt", "generate", "nowhere", "a"])
    with pytest.raises(FileNotFoundError):
        main()


def test_help_is_quick_and_loads_no_tensorflow() -> None:
    """In a process of its own, as the console script runs it."""
    script = (
        "import sys\n"
        "sys.argv = ['keras-gpt', '--help']\n"
        "from keras_gpt.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    print(sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - begin
    for verb in VERBS:
        assert verb in done.stdout
    loaded = done.stdout.splitlines()[-1]
    for package in ("tensorflow", "keras", "numpy", "tokenizers", "matplotlib", "fastapi"):
        assert f"'{package}'" not in loaded
    assert seconds < 2.0
