"""Writes what the serving benchmark needs: requests, offline answers, the model in every form."""

import json
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import numpy as np

from tests.benchmarks.serving_load import Wanted


class Lengths(NamedTuple):
    """How long requests are, in tokens: the shortest and the longest."""

    prompt: tuple[int, int] = (16, 200)
    new: tuple[int, int] = (16, 64)
    room: int = 512  # for prompt and answer: what servers are told to make

    @classmethod
    def quick(cls) -> "Lengths":
        """Give lengths for a look at whether everything runs."""
        return cls((8, 24), (4, 16), 64)


def prepare(source: str, folder: Path, contenders: list[str], count: int, lengths: Lengths) -> None:
    """Write forms of a model, and `count` requests with their answers in each precision.

    Args:
        source: what `GPT.from_preset` takes; the model has a tokenizer.
        folder: takes everything.
        contenders: who will run, as "NAME:PRECISION".
        count: how many requests, of which no two have the same prompt.
        lengths: of prompts and answers.
    """
    from keras_gpt import GPT

    gpt = GPT.from_preset(source)
    gpt.save_to_preset(folder / "model")
    asked = list(_requests(gpt.tokenizer, count, lengths))
    names = [contender.partition(":") for contender in contenders]
    if any(name.startswith("transformers") for name, _, _ in names):
        gpt.save_to_huggingface(folder / "huggingface")
    for precision in {precision for name, _, precision in names if name.startswith("llama")}:
        form = {"float32": "f32", "int8": "q8_0"}[precision]
        gpt.save_to_gguf(folder / f"model-{precision}.gguf", dtype=form)
    if any(name.startswith("saved_model") for name, _, _ in names):
        gpt.export(folder / "saved_models" / "model" / "1")
    _write(folder / "float32.json", _answers(gpt, asked))
    if any(precision == "int8" for _, _, precision in names):
        gpt.quantize("int8")
        _write(folder / "int8.json", _answers(gpt, asked))


def read_requests(folder: Path, precision: str) -> list[Wanted]:
    """Give the requests that `prepare` wrote, with the answers in a precision."""
    document = json.loads((folder / f"{precision}.json").read_text(encoding="utf-8"))
    return [Wanted(*each) for each in document]


def _requests(tokenizer: Any, count: int, lengths: Lengths) -> Iterator[tuple[str, int]]:
    """Draw prompts out of the topics of Python's own help, and how many tokens to answer."""
    rng = np.random.default_rng(0)
    ids = tokenizer.encode("\n".join(topics[name] for name in sorted(topics)))
    seen = set()
    while len(seen) < count:
        length, new = rng.integers(*lengths.prompt), rng.integers(*lengths.new)
        begin = rng.integers(0, len(ids) - lengths.prompt[1])
        prompt = tokenizer.decode(ids[begin : begin + length]).strip()
        # Beginnings differ too: a server may keep what it has read, and ours does.
        if prompt.isascii() and len(prompt) > 20 and prompt[:20] not in seen:
            seen.add(prompt[:20])
            yield prompt, int(new)


def _answers(gpt: Any, asked: list[tuple[str, int]]) -> list[Wanted]:
    """Give what `generate` answers to each request alone."""
    wanted = []
    for prompt, new in asked:
        answer = gpt.generate(prompt, max_new_tokens=new, temperature=0, echo=False, details=True)
        wanted.append(Wanted(prompt, new, answer.text, len(answer.token_ids)))
    return wanted


def _write(path: Path, wanted: list[Wanted]) -> None:
    path.write_text(json.dumps(wanted), encoding="utf-8")
