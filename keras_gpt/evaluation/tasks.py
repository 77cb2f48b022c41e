"""The tasks' files, read into what is to be scored; prompts are those of lm-eval."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Question(NamedTuple):
    """Texts to score, one of which is right.

    Args:
        pairs: (context, continuation) of each choice.
        gold: place of the right one.
        lengths: characters of each choice, by which `acc_norm` divides; None where the choices
            differ in the context and share the continuation.
    """

    pairs: list[tuple[str, str]]
    gold: int
    lengths: list[int] | None


class Task(NamedTuple):
    """A task: the fields that each line of its file has, and how a question is made of one."""

    fields: str
    read: Callable[[Mapping[str, Any]], Question]


def _answer_choices(record: Mapping[str, Any]) -> Question:
    """Ask "Question: ... Answer:", on two lines, and go on with each choice: ARC and PIQA."""
    context = record["query"].rstrip("\n") + "\nAnswer:"
    return _choices(context, record["choices"], record["gold"])


def _plain_choices(record: Mapping[str, Any]) -> Question:
    """Go on from the query with each choice, as in COPA."""
    choices = [choice[:1].lower() + choice[1:] for choice in record["choices"]]
    return _choices(record["query"], choices, record["gold"])


def _choices(context: str, choices: list[str], gold: int) -> Question:
    pairs = [(context, " " + choice) for choice in choices]
    return Question(pairs, gold, [len(choice) for choice in choices])


def _context_choices(record: Mapping[str, Any]) -> Question:
    """Score one continuation after each context, as Winogrande is asked."""
    pairs = [(context, " " + record["continuation"]) for context in record["context_options"]]
    return Question(pairs, record["gold"], None)


def _endings(record: Mapping[str, Any]) -> Question:
    """HellaSwag: the activity, its beginning, and each ending, without the marks of WikiHow."""
    begin = record.get("ctx")
    if "ctx_a" in record:
        begin = f"{record['ctx_a']} {record['ctx_b'].capitalize()}"
    label = record.get("activity_label")
    context = _without_marks(f"{label}: {begin}" if label else str(begin))
    return _choices(
        context, [_without_marks(ending) for ending in record["endings"]], int(record["label"])
    )


def _without_marks(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _last_word(record: Mapping[str, Any]) -> Question:
    """LAMBADA: the last word of a passage."""
    if "text" in record:
        context, _, word = record["text"].rstrip().rpartition(" ")
    else:
        context, word = record["context"], record["continuation"]
    return Question([(context, " " + word)], 0, None)


LAMBADA = "lambada"
_CHOICES = '"query", "choices" (a list) and "gold" (the place of the right one)'
TASKS: dict[str, Task] = {
    "arc_easy": Task(_CHOICES, _answer_choices),
    "piqa": Task(_CHOICES, _answer_choices),
    "copa": Task(_CHOICES, _plain_choices),
    "winogrande": Task(
        '"context_options" (a list), "continuation" and "gold" (the place of the right one)',
        _context_choices,
    ),
    "hellaswag": Task(
        '"endings" (a list), "label", and "ctx" or "ctx_a" and "ctx_b" (with "activity_label")',
        _endings,
    ),
    LAMBADA: Task('"text", or "context" and "continuation"', _last_word),
}


def read_questions(
    task: str, data: str | os.PathLike[str], limit: int | None = None
) -> list[Question]:
    """Read a task's file, one JSON object a line.

    Args:
        task: a name in `TASKS`.
        data: the file.
        limit: read only so many questions; None reads all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the task is unknown, or a line is not what the task needs; the message says
            which line, and what is needed.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {sorted(TASKS)}. Received: task={task!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1. Received: limit={limit}")
    questions: list[Question] = []
    with open(Path(data), encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if limit is not None and len(questions) == limit:
                break
            if not line.strip():
                continue
            try:
                question = TASKS[task].read(json.loads(line))
                _check(question)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"each line of a file for {task} must be a JSON object with "
                    f"{TASKS[task].fields}. Received: line {number} of {data} "
                    f"({type(error).__name__}: {error})"
                ) from error
            questions.append(question)
    if not questions:
        raise ValueError(f"data must hold at least one question. Received: data={str(data)!r}")
    return questions


def _check(question: Question) -> None:
    if not 0 <= question.gold < len(question.pairs):
        raise ValueError(f"the right one is {question.gold} of {len(question.pairs)}")
    if not all(continuation.strip() for _, continuation in question.pairs):
        raise ValueError("there is nothing to score")
