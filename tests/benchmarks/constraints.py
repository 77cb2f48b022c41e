"""What a constraint costs each step: `allowed` and `accept` of one row, in microseconds.

    pip install -e '.[constrain]'
    python -m tests.benchmarks.constraints [--rows 50] [--vocabulary FOLDER]

The vocabulary is GPT-2's, 50,257 tokens (a folder with encoder.json and vocab.bpe). Each row draws
its tokens evenly from those that are allowed, up to 100 of them; the first row of each constraint,
which compiles it too, stands apart.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from keras_gpt import Tokenizer
from keras_gpt.generation import Constraint
from keras_gpt.generation.constraints import ConstraintState, start_constraint

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
LONGEST = 100
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 4},
        "kind": {"enum": ["reader", "writer", "editor"]},
    },
    "required": ["name", "age", "tags", "kind"],
    "additionalProperties": False,
}
ARITHMETIC = r"""
start: sum
sum: term (("+" | "-") term)*
term: factor ("*" factor)*
factor: NUMBER | "(" sum ")"
NUMBER: /[1-9][0-9]*/
"""
MAIL = r"[a-z0-9._]{1,30}@([a-z0-9-]{1,20}\.){1,3}(com|org|net)"
WORDS = r"([A-Z][a-z]+|[0-9]+)( [a-z]+,?)* [a-z]+[.!?]"


def constraints() -> dict[str, Constraint]:
    return {
        "JSON schema": Constraint.json_schema(PERSON),
        "regex, an address": Constraint.regex(MAIL),
        "regex, a sentence": Constraint.regex(WORDS),
        "grammar, arithmetic": Constraint.grammar(ARITHMETIC),
        "choice of 1000": Constraint.choice([f"answer {i * i} of {i}" for i in range(1000)]),
    }


def walk(state: ConstraintState, rng: np.random.Generator) -> list[float]:
    """Write one row, and give the seconds of each step."""
    seconds: list[float] = []
    while state.ended is None and len(seconds) < LONGEST:
        start = time.perf_counter()
        allowed = state.allowed()
        looked = time.perf_counter()
        token = int(rng.choice(np.flatnonzero(allowed)))  # the model's part, not counted
        chosen = time.perf_counter()
        state.accept(token)
        seconds.append(time.perf_counter() - chosen + looked - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--vocabulary", type=Path, default=DATA / "bpe" / "gpt2")
    args = parser.parse_args()
    folder = args.vocabulary
    tokenizer = Tokenizer.from_files(folder / "encoder.json", folder / "vocab.bpe")
    stops = list(tokenizer.special_tokens.values())
    start = time.perf_counter()
    start_constraint(tokenizer, Constraint.regex("a"), stops)
    print(f"vocabulary of {tokenizer.vocab_size}: {time.perf_counter() - start:.2f} s, once")
    print("| constraint | first row ms | row's start us | step us, median | mean | 99 % | steps |")
    print("|---|---|---|---|---|---|---|")
    for name, constraint in constraints().items():
        rng = np.random.default_rng(0)
        start = time.perf_counter()
        walk(start_constraint(tokenizer, constraint, stops), rng)
        first = time.perf_counter() - start
        starts, steps = [], []
        for _ in range(args.rows):
            start = time.perf_counter()
            state = start_constraint(tokenizer, constraint, stops)
            starts.append(time.perf_counter() - start)
            steps += walk(state, rng)
        micros = np.array(steps) * 1e6
        print(
            f"| {name} | {first * 1e3:.0f} | {np.median(starts) * 1e6:.0f} | "
            f"{np.median(micros):.0f} | {micros.mean():.0f} | {np.percentile(micros, 99):.0f} | "
            f"{len(steps)} |"
        )


if __name__ == "__main__":
    main()
