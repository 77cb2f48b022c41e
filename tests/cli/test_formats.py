"""`convert`, `models`, `chat` and `evaluate --task` on small files: what they write, say and refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
from gpt_cases import small_tokenizer
from typer.testing import CliRunner

from keras_gpt import GPT, Tokenizer
from keras_gpt.cli import app
from keras_gpt.generation_settings import GenerationSettings

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GPT-2 that can talk."""
    folder = tmp_path_factory.mktemp("model") / "gpt"
    tokenizer = small_tokenizer()
    GPT(
        tokenizer.vocab_size,
        32,
        4,
        64,
        1,
        context_length=128,
        tokenizer=tokenizer,
        generation_settings=GenerationSettings(chat_template=TEMPLATE),
        initializer_range=0.3,
    ).save_to_preset(folder)
    return folder


def _run(*arguments: Any, said: str | None = None) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=said)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


# convert


@pytest.mark.parametrize("form", ["hf", "gguf", "keras-gpt", "keras-hub"])
@pytest.mark.filterwarnings("ignore")
def test_convert_there_and_back(model: Path, tmp_path: Path, form: str) -> None:
    """The same text as before; the files are named."""
    destination = tmp_path / ("gpt.gguf" if form == "gguf" else "gpt")
    extra = ["--dtype", "f32"] if form == "gguf" else []
    output = _run("convert", model, destination, "--to", form, *extra)
    named = {"hf": "model.safetensors", "keras-gpt": "model.safetensors", "gguf": "gpt.gguf"}
    assert named.get(form, "model.weights.h5") in output
    settings = ["the cat", "--temperature", 0, "--max-new-tokens", 8]
    assert _run("generate", destination, *settings) == _run("generate", model, *settings)
    with pytest.raises(FileExistsError, match="overwrite"):
        _run("convert", model, destination, "--to", form)
    _run("convert", model, destination, "--to", form, "--overwrite")


@pytest.mark.parametrize("kept", ["preset", "keras file", "nothing"])
def test_integers_by_an_option(model: Path, tmp_path: Path, kept: str) -> None:
    """The text of a model that was kept in integers is that of one rounded while it is read."""
    settings = ["the cat", "--temperature", 0, "--max-new-tokens", 8]
    gpt = GPT.from_preset(model, quantize="int8")
    text = gpt.generate("the cat", temperature=0, max_new_tokens=8)
    place, option = tmp_path / "gpt.keras", ["--quantize", "int8"]
    if kept == "preset":
        place = tmp_path / "gpt"
        _run("convert", model, place, "--to", "keras-gpt", *option)
        assert '"quantization": "int8"' in (place / "config.json").read_text()
        assert text in _run("generate", place, *settings)
        with pytest.raises(ValueError, match="quantize='int4'"):
            _run("generate", place, *settings, "--quantize", "int4")
    elif kept == "keras file":
        gpt.save(place)
    else:
        GPT.from_preset(model).save(place)
    assert text in _run("generate", place, *settings, *option)


def test_quantize_belongs_where_there_are_weights_to_round(model: Path, tmp_path: Path) -> None:
    """Before anything is read."""
    with pytest.raises(ValueError, match=r"--to keras-gpt.*Received: --quantize int8 --to hf"):
        _run("convert", model, tmp_path / "x", "--to", "hf", "--quantize", "int8")
    with pytest.raises(ValueError, match=r"--model.*Received: --quantize int4 with FOLDER="):
        _run("serve", tmp_path, "--quantize", "int4")


def test_convert_refuses_what_does_not_fit(model: Path, tmp_path: Path) -> None:
    """A number format where there is none, an unknown one, nothing to convert."""
    with pytest.raises(ValueError, match="--dtype belongs to --to gguf"):
        _run("convert", model, tmp_path / "x", "--to", "hf", "--dtype", "f16")
    with pytest.raises(ValueError, match="dtype='q2'"):
        _run("convert", model, tmp_path / "x", "--to", "gguf", "--dtype", "q2")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        _run("convert", "nowhere", tmp_path / "x", "--to", "hf")
    assert not (tmp_path / "x").exists()


# models


def test_models_are_listed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be had, and whether it is here."""
    monkeypatch.setenv("KERAS_GPT_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    output = _run("models", "list")
    assert "smollm2-135m-instruct" in output
    assert "Apache-2.0" in output
    with pytest.raises(ValueError, match=r"NAME must be one of .*smollm2.*'other'"):
        _run("models", "pull", "other")
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        _run("models", "remove", "smollm2-135m-instruct")
    folder = tmp_path / "models" / "smollm2-135m-instruct"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert str(folder) not in output
    _run("models", "remove", "smollm2-135m-instruct")
    assert not folder.exists()


def test_a_name_that_was_not_pulled_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every verb that takes a model."""
    monkeypatch.setenv("KERAS_GPT_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="keras-gpt models pull smollm2-135m-instruct"):
        _run("generate", "smollm2-135m-instruct", "Hello")


# chat


def test_chat_answers_and_keeps_the_conversation(model: Path, tmp_path: Path) -> None:
    """Two turns, saved, forgotten, saved again."""
    first, second = tmp_path / "one.json", tmp_path / "two.json"
    said = f"the cat\nsat on\n/save {first}\n/reset\nthe mat\n/save {second}\n/what\n/exit\nmore\n"
    output = _run("chat", "--model", model, "--max-new-tokens", 5, "--seed", 1, said=said)
    messages = json.loads(first.read_text(encoding="utf-8"))
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[0]["content"] == "the cat"
    assert messages[1]["content"] in output
    assert "[4 messages in" in output
    assert "[forgotten]" in output
    assert json.loads(second.read_text(encoding="utf-8"))[0]["content"] == "the mat"
    assert "/reset forgets" in output  # the help, for a word that it does not know


def test_chat_goes_on_after_what_does_not_fit(model: Path) -> None:
    """A message that is too long is an error line, and the next one is answered."""
    output = _run("chat", "--model", model, "--max-new-tokens", 5, said="x " * 300 + "\nhello\n")
    assert "error: prompt 0 and the new tokens must fit the context" in output
    assert len(output.split("error")[1].splitlines()) > 2


def test_chat_needs_a_template(tmp_path: Path) -> None:
    """The error says so."""
    tokenizer = Tokenizer.train_from_texts(["a b c"], vocab_size=257)
    GPT(tokenizer.vocab_size, 16, 2, 16, 1, tokenizer=tokenizer).save_to_preset(tmp_path / "gpt")
    with pytest.raises(ValueError, match="no chat template"):
        _run("chat", "--model", tmp_path / "gpt", said="hello\n")


# evaluate --task


def test_a_task_gives_a_table_and_json(model: Path, tmp_path: Path) -> None:
    """With every question's numbers where they are asked for."""
    data = tmp_path / "questions.jsonl"
    rows = [{"query": f"Question: {n}?", "choices": ["yes", "no"], "gold": n % 2} for n in range(5)]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    numbers = tmp_path / "numbers.json"
    arguments = ["evaluate", model, "--task", "piqa", "--data", data, "--json", numbers]
    output = _run(*arguments, "--details", "--limit", 4)
    assert "acc_norm" in output
    content = json.loads(numbers.read_text())["task"]
    assert content["num_questions"] == 4
    assert len(content["answers"]) == 4
    share = sum(a["acc"] == a["gold"] for a in content["answers"]) / 4
    assert content["measures"]["acc"]["value"] == share
    with pytest.raises(FileExistsError, match=r"numbers\.json"):
        _run(*arguments)
    _run(*arguments, "--overwrite")
    assert "answers" not in json.loads(numbers.read_text())["task"]
    with pytest.raises(ValueError, match="--data FILE"):
        _run("evaluate", model, "--task", "piqa")
    for idle in (["--window", 8], ["--data", data], ["--max-new-tokens", 3], ["--details"]):
        with pytest.raises(ValueError, match=f"{idle[0]} belongs to"):
            _run(
                "evaluate",
                model,
                *idle,
                *(["--text", data] if idle[0] != "--window" else []),
                *(["--pairs", data] if idle[0] == "--window" else []),
            )
    with pytest.raises(ValueError, match="task must be one of"):
        _run("evaluate", model, "--task", "chess", "--data", data)


@pytest.mark.filterwarnings("ignore")
def test_any_task_of_lm_eval_runs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the user's own, from a file."""
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"q": f"the cat {n}", "c": ["sat", "mat"], "g": n % 2} for n in range(6)]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "own_task.yaml").write_text(
        "task: own_task\n"
        "dataset_path: json\n"
        "dataset_name: null\n"
        f"dataset_kwargs:\n  data_files: {tmp_path}/rows.json\n"
        "test_split: train\n"
        "output_type: multiple_choice\n"
        'doc_to_text: "{{q}}"\n'
        'doc_to_choice: "{{c}}"\n'
        'doc_to_target: "{{g}}"\n'
        "metric_list:\n  - metric: acc\n"
    )
    output = _run("evaluate", model, "--task", f"lm-eval:{tmp_path}/own_task.yaml")
    assert "own_task" in output
    assert "acc" in output
