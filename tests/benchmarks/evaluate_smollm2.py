"""SmolLM2-135M-Instruct (Q4_1) on ARC-easy, PIQA and LAMBADA: ours beside transformers, row by row.

    keras-gpt models pull smollm2-135m-instruct
    python -m tests.benchmarks.evaluate_smollm2 --limit 500 [--tasks arc_easy piqa lambada]

Both read the same rows of the same files in the same run, with the first `--limit` questions of
each (0 asks all). transformers gets the weights of our preset through `save_to_huggingface`, so its
reader of gguf is not what is compared; `tests/checkpoints/test_smollm2.py` compares that.
Published for the unquantized model: ARC-easy acc 54.1, PIQA acc_norm 66.9.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"
FILES = {"arc_easy": "arc_easy", "piqa": "piqa", "lambada": "lambada_openai"}
TOKENS_AT_ONCE = 2048


def their_scores(model: Any, requests: list[Any]) -> list[Any]:
    """Score the same requests with transformers: sorted by length, padded on the right."""
    import torch

    from keras_gpt.evaluation.scoring import Score

    order = sorted(range(len(requests)), key=lambda i: -sum(map(len, requests[i])))
    scores: list[Any] = [None] * len(requests)
    start = 0
    while start < len(order):
        longest = sum(map(len, requests[order[start]])) - 1
        batch = order[start : start + max(1, TOKENS_AT_ONCE // longest)]
        start += len(batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        rows = [[*requests[i].context, *requests[i].continuation] for i in batch]
        for place, row in enumerate(rows):
            ids[place, : len(row) - 1] = torch.tensor(row[:-1])
        with torch.no_grad():
            logits = model(ids).logits
        for place, (i, row) in enumerate(zip(batch, rows, strict=True)):
            targets = torch.tensor(requests[i].continuation)
            these = logits[place, len(row) - 1 - len(targets) : len(row) - 1]
            logs = torch.log_softmax(these.float(), -1).gather(1, targets[:, None])
            greedy = bool((these.argmax(-1) == targets).all())
            scores[i] = Score(float(logs.double().sum()), greedy, len(targets), 0)
    return scores


def main() -> None:
    """Run the comparison and print a table, and one line of JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--tasks", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--model", default="smollm2-135m-instruct")
    arguments = parser.parse_args()

    import torch
    import transformers

    from keras_gpt import GPT
    from keras_gpt.evaluation import run

    gpt = GPT.from_preset(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        gpt.save_to_huggingface(folder, overwrite=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    results = []
    ours = run.score_requests
    for task in arguments.tasks:
        answers: dict[str, Any] = {}
        for name, scorer in (
            ("keras_gpt", ours),
            ("transformers", lambda gpt, requests, advance: their_scores(model, requests)),
        ):
            run.score_requests = scorer  # the same rows, prompts and counting for both
            start = time.perf_counter()
            result = run.evaluate(gpt, task, DATA / f"{FILES[task]}.jsonl", arguments.limit or None)
            answers[name] = (result, time.perf_counter() - start)
        (mine, seconds), (theirs, their_seconds) = answers["keras_gpt"], answers["transformers"]
        decided = [key for key in ("acc", "acc_norm", "is_greedy") if key in mine.answers[0]]
        differing = [
            {"question": index, "ours": a, "theirs": b}
            for index, (a, b) in enumerate(zip(mine.answers, theirs.answers, strict=True))
            if any(a[key] != b[key] for key in decided)
        ]
        furthest = max(
            float(np.abs(np.subtract(a["log_probabilities"], b["log_probabilities"])).max())
            for a, b in zip(mine.answers, theirs.answers, strict=True)
        )
        results.append(
            {
                "task": task,
                "questions": mine.num_questions,
                "keras_gpt": {name: each.value for name, each in mine.measures.items()},
                "transformers": {name: each.value for name, each in theirs.measures.items()},
                "seconds": [round(seconds, 1), round(their_seconds, 1)],
                "largest difference of a log-probability": furthest,
                "questions answered otherwise": differing,
            }
        )
        print(json.dumps(results[-1], indent=2), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
