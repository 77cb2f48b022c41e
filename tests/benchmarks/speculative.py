"""Speculative decoding of SmolLM2-135M beside plain decoding, in turns.

    keras-gpt models pull smollm2-135m-instruct
    python -m tests.benchmarks.speculative [--rounds 3] [--new 96] [--counts 3 5 8]

Prompt look-up is asked to repeat an article word by word, to answer about one, and to go on with
one. Two draft models are made of the model itself, neither trained for it: its first layers, with
its embeddings and its last normalization; and all of it in int8. Every way of decoding answers once
before anything is timed; then all take turns, so that a slow minute hits all alike. Numbers are
medians of the rounds, the reading of the prompt included, greedy and at batch 1. "Same" says
whether the answer was that of plain decoding, token for token.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras

from keras_gpt import GPT
from keras_gpt.generation.chat import chat_prompt_ids
from keras_gpt.generation.decode import Chosen, decode
from keras_gpt.generation.rows import Row
from keras_gpt.generation.sampling_options import SamplingOptions
from keras_gpt.generation.speculative import Totals, decode_speculatively

FILE = Path(__file__).resolve().parents[3] / "shared/data/text/wikitext-2/wiki.test.raw"

Way = Callable[[GPT, Row, Totals], Iterator[Chosen]]


def plain(gpt: GPT, row: Row, totals: Totals) -> Iterator[Chosen]:
    for tokens in decode(gpt, [row]):
        yield tokens[0]


def looked_up(gpt: GPT, row: Row, totals: Totals, count: int, size: int = 2) -> Iterator[Chosen]:
    return decode_speculatively(gpt, row, lookup=size, num_draft_tokens=count, totals=totals)


def drafted(gpt: GPT, row: Row, totals: Totals, count: int, draft: GPT) -> Iterator[Chosen]:
    return decode_speculatively(gpt, row, draft=draft, num_draft_tokens=count, totals=totals)


def first_layers(gpt: GPT, count: int) -> GPT:
    """Make a model of the first blocks of another, with all that stands around them."""
    draft = GPT.from_config({**gpt.get_config(), "num_layers": count, "name": f"first_{count}"})
    parts = ["token_embedding", "final_norm"]
    pairs = [(getattr(draft, name), getattr(gpt, name)) for name in parts]
    for own, other in [*pairs, *zip(draft.blocks, gpt.blocks[:count], strict=True)]:
        own.set_weights([keras.ops.convert_to_numpy(weight) for weight in other.weights])
    return draft


def prompts(gpt: GPT) -> dict[str, list[int]]:
    """Give what is asked: a text that comes again, an answer about a text, and ordinary text."""
    lines = FILE.read_text(encoding="utf-8").split("\n")
    article = next(line for line in lines if 600 < len(line) < 800).strip()
    asked = {
        "repeat": f"Repeat this text word by word, and write nothing else:\n\n{article}",
        "summary": f"Summarize this text in a few sentences:\n\n{article}",
    }
    chats = {
        name: chat_prompt_ids(
            gpt.tokenizer, gpt.generation_settings, [{"role": "user", "content": text}]
        )
        for name, text in asked.items()
    }
    return {**chats, "ordinary": gpt.tokenizer.encode(article)[:64]}


def main() -> None:
    """Print a table: accepted tokens, tokens per second, and the ratio to plain decoding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=96)
    parser.add_argument("--counts", type=int, nargs="+", default=[3, 5, 8])
    parser.add_argument("--draft-layers", type=int, nargs="*", default=[15])
    parser.add_argument("--temperature", type=float, default=0.0)
    arguments = parser.parse_args()
    gpt = GPT.from_preset("smollm2-135m-instruct")
    ways: dict[str, Way] = {"plain": plain}
    for count in arguments.counts:
        ways[f"look-up of 2, {count} guessed"] = functools.partial(looked_up, count=count)
    for layers in arguments.draft_layers:
        draft = first_layers(gpt, layers)
        ways[f"first {layers} of {len(gpt.blocks)} layers, 4 guessed"] = functools.partial(
            drafted, count=4, draft=draft
        )
    rounded = first_layers(gpt, len(gpt.blocks))
    rounded.quantize("int8")
    ways["itself in int8, 4 guessed"] = functools.partial(drafted, count=4, draft=rounded)
    print("| prompt | way | a round accepts | accepted of guessed | tokens/s | ratio | same |")
    print("|---|---|---|---|---|---|---|")
    options = SamplingOptions(temperature=arguments.temperature, seed=0)
    for name, prompt in prompts(gpt).items():
        row = Row(prompt, arguments.new, options)
        answers = {
            way: [chosen.token for chosen in run(gpt, row, Totals())] for way, run in ways.items()
        }
        print(gpt.tokenizer.decode(answers["plain"]), file=sys.stderr, flush=True)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        totals = {}
        for _ in range(arguments.rounds):
            for way, run in ways.items():
                totals[way] = Totals()
                start = time.perf_counter()
                for _ in run(gpt, row, totals[way]):
                    pass
                seconds[way].append(time.perf_counter() - start)
        for way in ways:
            median, did = statistics.median(seconds[way]), totals[way]
            ratio = statistics.median(seconds["plain"]) / median
            accepted = f"{did.accepted / did.drafted:.0%}" if did.drafted else "-"
            a_round = f"{did.accepted / did.rounds:.1f}" if did.rounds else "-"
            same = "yes" if answers[way] == answers["plain"] else "no"
            print(
                f"| {name}, {len(prompt)} tokens | {way} | {a_round} | {accepted} "
                f"| {len(answers[way]) / median:.1f} | {ratio:.2f} | {same} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
