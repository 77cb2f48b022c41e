"""Tasks: prompts and counting as lm-eval has them, files that do not fit refused by line."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt_cases import make_gpt, small_tokenizer

from keras_gpt import GPT
from keras_gpt.evaluation import evaluate
from keras_gpt.evaluation.tasks import TASKS, read_questions

RECORDS: dict[str, dict[str, Any]] = {
    "arc_easy": {"query": "Question: Why?", "choices": ["so", "because"], "gold": 1},
    "piqa": {"query": "Question: How?\n", "choices": ["a b", "c"], "gold": 0},
    "copa": {"query": "It rained, therefore", "choices": ["It got wet.", "we sang"], "gold": 0},
    "winogrande": {"context_options": ["A cat", "A mat"], "continuation": "sat.", "gold": 1},
    "hellaswag": {
        "activity_label": "Cooking",
        "ctx_a": "A man [header] stirs.",
        "ctx_b": "he",
        "endings": ["eats [substeps] it", "waits  long"],
        "label": "1",
    },
    "lambada": {"text": "I don't care about signs"},
}
PAIRS = {
    "arc_easy": [("Question: Why?\nAnswer:", " so"), ("Question: Why?\nAnswer:", " because")],
    "piqa": [("Question: How?\nAnswer:", " a b"), ("Question: How?\nAnswer:", " c")],
    "copa": [
        ("It rained, therefore", " it got wet."),
        ("It rained, therefore", " we sang"),
    ],
    "winogrande": [("A cat", " sat."), ("A mat", " sat.")],
    "hellaswag": [
        ("Cooking: A man stirs. He", " eats it"),
        ("Cooking: A man stirs. He", " waits long"),
    ],
    "lambada": [("I don't care about", " signs")],
}


def _write(folder: Path, *records: Any) -> Path:
    file = folder / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def gpt() -> GPT:
    tokenizer = small_tokenizer()
    model = make_gpt(vocab_size=tokenizer.vocab_size)
    model.tokenizer = tokenizer
    return model


@pytest.mark.parametrize("task", TASKS)
def test_each_task_asks_in_its_own_words(tmp_path: Path, task: str) -> None:
    """The strings that lm-eval would score."""
    (question,) = read_questions(task, _write(tmp_path, RECORDS[task]))
    assert question.pairs == PAIRS[task]
    assert question.gold == int(RECORDS[task].get("gold", RECORDS[task].get("label", 0)))


def test_the_other_form_of_lambada(tmp_path: Path) -> None:
    """Context and continuation apart."""
    record = {"context": "I don't care about", "continuation": "signs"}
    (question,) = read_questions("lambada", _write(tmp_path, record))
    assert question.pairs == PAIRS["lambada"]


@pytest.mark.parametrize("task", TASKS)
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, task: str) -> None:
    """With what is needed."""
    for bad in ({"nothing": 1}, [], {**RECORDS[task], "gold": 7, "label": 7, "text": " "}):
        with pytest.raises(ValueError, match=rf"file for {task} .*line 2 of"):
            read_questions(task, _write(tmp_path, RECORDS[task], bad))
    (tmp_path / "data.jsonl").write_text("{not json\n")
    with pytest.raises(ValueError, match="line 1"):
        read_questions(task, tmp_path / "data.jsonl")
    (tmp_path / "data.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="at least one question"):
        read_questions(task, tmp_path / "data.jsonl")


def test_wrong_arguments_are_named(gpt: GPT, tmp_path: Path) -> None:
    """Task, limit, file, tokenizer."""
    file = _write(tmp_path, RECORDS["piqa"])
    with pytest.raises(ValueError, match="task='chess'"):
        evaluate(gpt, "chess", file)
    with pytest.raises(ValueError, match="limit=0"):
        evaluate(gpt, "piqa", file, limit=0)
    with pytest.raises(FileNotFoundError):
        evaluate(gpt, "piqa", tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="tokenizer"):
        evaluate(make_gpt(), "piqa", file)


def test_choices_are_counted_as_lm_eval_counts(gpt: GPT, tmp_path: Path) -> None:
    """The highest log-probability, and the highest by character; with the standard error."""
    rng = np.random.default_rng(2)
    words = ["the", "cat", "sat", "on", "mat", "upon a time", "once"]
    records = [
        {
            "query": "Question: " + " ".join(rng.choice(words, 4)),
            "choices": [" ".join(rng.choice(words, size)) for size in (1, 2, 4)],
            "gold": int(rng.integers(3)),
        }
        for _ in range(20)
    ]
    result = evaluate(gpt, "arc_easy", _write(tmp_path, *records))
    right = {"acc": 0, "acc_norm": 0}
    for record, answer in zip(records, result.answers, strict=True):
        context = record["query"] + "\nAnswer:"
        logs = [gpt.score(" " + choice, given=context) for choice in record["choices"]]
        np.testing.assert_allclose(answer["log_probabilities"], logs, atol=1e-3)
        normed = [log / len(choice) for log, choice in zip(logs, record["choices"], strict=True)]
        right["acc"] += int(np.argmax(logs)) == record["gold"]
        right["acc_norm"] += int(np.argmax(normed)) == record["gold"]
    for name, count in right.items():
        share = count / len(records)
        assert result.measures[name].value == share
        error = math.sqrt(share * (1 - share) / (len(records) - 1))
        assert result.measures[name].standard_error == pytest.approx(error)
    assert evaluate(gpt, "arc_easy", _write(tmp_path, *records), limit=3).num_questions == 3


def test_last_words_are_counted(gpt: GPT, tmp_path: Path) -> None:
    """Greedy ones, and the perplexity of a word."""
    assert gpt.tokenizer is not None
    texts = ["the cat sat on the mat", "Once upon a time", "a cat on a mat"]
    result = evaluate(gpt, "lambada", _write(tmp_path, *({"text": text} for text in texts)))
    logs = [
        gpt.score(" " + text.rpartition(" ")[2], given=text.rpartition(" ")[0]) for text in texts
    ]
    assert result.measures["perplexity"].value == pytest.approx(np.exp(-np.mean(logs)), rel=1e-3)
    greedy = [answer["is_greedy"] for answer in result.answers]
    assert result.measures["acc"].value == sum(greedy) / 3


def test_the_real_files_are_read(shared_data: Path) -> None:
    """All of each, with as many questions as SOURCES.md says."""
    for task, name, count in (
        ("arc_easy", "arc_easy", 2376),
        ("piqa", "piqa", 1838),
        ("copa", "copa", 100),
        ("winogrande", "winograd_wsc", 273),
        ("lambada", "lambada_openai", 5153),
        ("lambada", "lambada_test", 5153),
    ):
        questions = read_questions(task, shared_data / "eval" / f"{name}.jsonl")
        assert len(questions) == count


@pytest.mark.filterwarnings("ignore")
def test_lm_eval_gives_the_same_with_transformers(gpt: GPT, tmp_path: Path) -> None:
    """The same weights in its own HFLM: log-probabilities, rolling ones, and continuations."""
    pytest.importorskip("lm_eval")
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from keras_gpt.evaluation import KerasGPTLM

    gpt.save_to_huggingface(tmp_path / "hf")
    theirs = HFLM(
        pretrained=transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf"),
        tokenizer=transformers.AutoTokenizer.from_pretrained(tmp_path / "hf"),
        device="cpu",
        batch_size=2,
    )
    ours = KerasGPTLM(gpt)
    pairs = [("the cat", " sat on"), ("Once upon ", "a time"), ("the mat", "."), ("", "the cat")]

    def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]

    asked = instances("loglikelihood", pairs)
    for mine, other in zip(ours.loglikelihood(asked), theirs.loglikelihood(asked), strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-3)
        assert mine[1] == bool(other[1])
    rolling = instances("loglikelihood_rolling", [("the cat sat on the mat. " * 9,), ("Once",)])
    np.testing.assert_allclose(
        ours.loglikelihood_rolling(rolling), theirs.loglikelihood_rolling(rolling), atol=1e-2
    )
    settings = {"until": ["\n", "."], "max_gen_toks": 10, "do_sample": False}
    asked = instances("generate_until", [("the cat", settings), ("Once upon", settings)])
    assert ours.generate_until(asked) == theirs.generate_until(asked)
    off = {"temperature": None, "top_k": 0, "top_p": 0, "max_gen_toks": 10, "until": None}
    (alone,) = ours.generate_until(instances("generate_until", [("the cat", off)]))
    assert alone == gpt.generate("the cat", max_new_tokens=10, temperature=0)[len("the cat") :]
    (nothing_before,) = ours.generate_until(instances("generate_until", [("", off)]))
    assert nothing_before
