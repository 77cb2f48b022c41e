"""Running a task: questions scored, counted, and kept one by one."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_gpt.evaluation.scoring import Score, encode_pair, score_requests
from keras_gpt.evaluation.tasks import LAMBADA, Question, read_questions

if TYPE_CHECKING:
    from keras_gpt.models import GPT


class Measure(NamedTuple):
    """A number, and its standard error where it has one."""

    value: float
    standard_error: float | None


@dataclasses.dataclass(frozen=True)
class Result:
    """What `evaluate` gives.

    Args:
        task: the task's name.
        num_questions: how many were asked.
        num_cut: how many did not fit the context and lost the beginning of theirs.
        measures: "acc", "acc_norm" or "perplexity" -> the number.
        answers: for each question what was chosen ("acc", "acc_norm"), what is right ("gold") and
            the log-probabilities of the choices, in nats.
    """

    task: str
    num_questions: int
    num_cut: int
    measures: dict[str, Measure]
    answers: list[dict[str, Any]]

    def to_dict(self, with_answers: bool = False) -> dict[str, Any]:
        """Give everything in JSON's types."""
        fields = dataclasses.asdict(self)
        fields["measures"] = {name: each._asdict() for name, each in self.measures.items()}
        if not with_answers:
            del fields["answers"]
        return fields


def evaluate(
    gpt: "GPT",
    task: str,
    data: str | os.PathLike[str],
    limit: int | None = None,
    start: Callable[[int], Callable[[int], None]] = lambda total: lambda rows: None,
) -> Result:
    """Measure a model on a task, zero-shot.

    `acc` is the share of questions whose right choice has the highest log-probability, `acc_norm`
    divides each by the choice's length in characters first; prompts and counting are lm-eval's.
    LAMBADA's `acc` is the share of last words of which every token is the most probable one, and its
    `perplexity` is that of a last word.

    Args:
        gpt: a model with a tokenizer.
        task: "arc_easy", "piqa", "copa", "winogrande", "hellaswag" or "lambada".
        data: the task's file, one JSON object a line.
        limit: ask only the first so many; None asks all.
        start: is called with the number of rows to score and gives a function that is told, again
            and again, how many more are ready.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model has no tokenizer, the task is unknown, or the file does not fit it.

    Example:
        >>> evaluate(gpt, "piqa", "piqa.jsonl").measures["acc_norm"].value

    Source: the Language Model Evaluation Harness, arXiv:2405.14782.
    """
    if gpt.tokenizer is None:
        raise ValueError("gpt must have a tokenizer to be evaluated on text. Received: None")
    questions = read_questions(task, data, limit)
    requests = [
        encode_pair(gpt.tokenizer, *pair) for question in questions for pair in question.pairs
    ]
    scores = score_requests(gpt, requests, start(len(requests)))
    answers, place = [], 0
    for question in questions:
        these = scores[place : place + len(question.pairs)]
        place += len(question.pairs)
        answers.append(_last_word(these[0]) if task == LAMBADA else _answer(question, these))
    measures = {}
    if task == LAMBADA:
        measures["acc"] = _share([answer["is_greedy"] for answer in answers])
        mean = sum(answer["log_probabilities"][0] for answer in answers) / len(answers)
        measures["perplexity"] = Measure(math.exp(min(-mean, 700.0)), None)
    else:
        for name in ("acc", "acc_norm"):
            if name in answers[0]:
                measures[name] = _share([answer[name] == answer["gold"] for answer in answers])
    cut = sum(score.num_cut > 0 for score in scores)
    return Result(task, len(questions), cut, measures, answers)


def _answer(question: Question, scores: list[Score]) -> dict[str, Any]:
    logs = [score.log_probability for score in scores]
    answer: dict[str, Any] = {"gold": question.gold, "acc": logs.index(max(logs))}
    if question.lengths is not None:
        normed = [log / length for log, length in zip(logs, question.lengths, strict=True)]
        answer["acc_norm"] = normed.index(max(normed))
    answer["log_probabilities"] = logs
    return answer


def _last_word(score: Score) -> dict[str, Any]:
    return {"is_greedy": score.is_greedy, "log_probabilities": [score.log_probability]}


def _share(right: list[bool]) -> Measure:
    share, count = sum(right) / len(right), len(right)
    error = math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None
    return Measure(share, error)
