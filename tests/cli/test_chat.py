"""`keras-gpt chat`: what it does besides answering."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpt_cases import small_tokenizer
from typer.testing import CliRunner

from keras_gpt import GPT
from keras_gpt.cli import app
from keras_gpt.generation_settings import GenerationSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
        generation_settings=GenerationSettings(
            chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}"
        ),
        initializer_range=0.3,
    ).save_to_preset(folder)
    return folder


def _run(model: Path, said: str, *arguments: Any) -> str:
    settings = ["--model", str(model), "--max-new-tokens", "12", "--seed", "1"]
    result = CliRunner().invoke(app, ["chat", *settings, *map(str, arguments)], input=said)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_stats_are_said_when_they_are_asked_for(model: Path) -> None:
    """Tokens, the wait for the first words, and the speed from there on."""
    plain = _run(model, "the cat\n")
    assert "tokens/s" not in plain
    output = _run(model, "the cat\n", "--stats")
    assert output.startswith(plain.rstrip("\n"))
    assert re.search(r"\[12 tokens; the first words after [\d.]+ s, then [\d.]+ tokens/s\]", output)


def test_a_pipe_gets_answers_and_no_decoration(model: Path) -> None:
    """Each answer ends with an empty line; the end of the input adds nothing."""
    first = _run(model, "the cat\n")
    assert first.endswith("\n\n")
    assert not first.endswith("\n\n\n")
    assert ">" not in first.split("\n\n")[-1]
    assert _run(model, "") == ""


def test_ctrl_c_stops_the_answer_and_not_the_conversation(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the model's work: what was said so far is kept, the next turn is answered."""
    from keras_gpt.generation import chat

    stream, turns = chat.stream, []

    def interrupted(*arguments: Any, **settings: Any) -> Iterator[int]:
        turns.append(1)
        for index, token in enumerate(stream(*arguments, **settings)):
            if index == 6 and len(turns) == 1:
                raise KeyboardInterrupt
            yield token

    monkeypatch.setattr(chat, "stream", interrupted)
    saved = tmp_path / "talk.json"
    _run(model, f"the cat\nthe mat\n/save {saved}\n")
    messages = json.loads(saved.read_text(encoding="utf-8"))
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    whole = _run(model, "the cat\n")
    assert messages[1]["content"]
    assert whole.startswith(messages[1]["content"])
    assert len(messages[1]["content"]) < len(whole.removesuffix("\n\n"))
    assert messages[2]["content"] == "the mat"


def test_a_message_that_is_too_long(model: Path) -> None:
    """Is an error, or is cut where that is asked for; the conversation goes on."""
    said = "the cat sat on the mat. " * 40 + "\nthe mat\n"
    output = _run(model, said)
    assert "error: " in output
    assert "truncate=" in output
    assert re.match(
        r"\[\d+ tokens of the message were left out\]\n", _run(model, said, "--truncate", "middle")
    )


def test_words_that_begin_with_a_slash_are_not_sent(model: Path, tmp_path: Path) -> None:
    """An unknown one is named, a file that cannot be written is an error line."""
    output = _run(model, f"/sing\n/help\n/save {tmp_path}/file/in/file\n/save {tmp_path}\n")
    assert "[there is no /sing]" in output
    assert output.count("/reset forgets") == 2
    assert "[0 messages in" in output
    assert "error: " in output


def test_a_file_that_was_there_is_not_replaced(model: Path, tmp_path: Path) -> None:
    """One that this conversation has written itself is."""
    (tmp_path / "mine.json").write_text("mine")
    talk = tmp_path / "talk.json"
    output = _run(model, f"/save {tmp_path}/mine.json\n/save {talk}\nthe cat\n/save {talk}\n")
    assert "error: the file exists" in output
    assert (tmp_path / "mine.json").read_text() == "mine"
    assert len(json.loads(talk.read_text(encoding="utf-8"))) == 2
