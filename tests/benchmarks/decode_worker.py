"""One contender of the decode benchmark: loads a model, then runs what it is asked.

    python -m tests.benchmarks.decode_worker NAME:PRECISION[@THREADS] FOLDER

Each line on standard input is a JSON object with `prompt`, `new` and `batch`; each answer is one line
of JSON with `seconds`, and `ids` of the first row (its new tokens). The first line that comes out says
how long loading and warming up took, and how much memory the process holds.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Run = Callable[[list[list[int]], int], Sequence[Sequence[int]]]


def keras_gpt(folder: Path, precision: str) -> Run:
    from keras_gpt import GPT

    gpt = GPT.from_preset(folder / "ours", dtype="bfloat16" if precision == "bfloat16" else None)
    if precision in ("int8", "int4"):
        gpt.quantize(precision)

    def run(prompts: list[list[int]], new: int) -> Sequence[Sequence[int]]:
        rows = gpt.generate(prompts, max_new_tokens=new, temperature=0, stop_token_ids=[])
        return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]

    return run


def saved_model(folder: Path, precision: str) -> Run:
    import tensorflow as tf

    from keras_gpt.export.graph_settings import default_settings
    from keras_gpt.processor import tune_xla

    tune_xla()  # as `keras-gpt serve` does
    loaded = tf.saved_model.load(folder / f"saved_model_{precision}")
    generate = loaded.signatures["generate"]

    def run(prompts: list[list[int]], new: int) -> Sequence[Sequence[int]]:
        # Python's loader asks for every input; a server fills in these defaults.
        settings = default_settings(new, with_text=False) | {"temperature": tf.constant([0.0])}
        answer = generate(prompt=tf.constant(prompts, tf.int32), **settings)
        return answer["token_ids"].numpy()[:, len(prompts[0]) :].tolist()

    return run


def transformers(folder: Path, precision: str) -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder / "huggingface", dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    if threads():
        torch.set_num_threads(threads())

    def run(prompts: list[list[int]], new: int) -> Sequence[Sequence[int]]:
        ids = torch.tensor(prompts)
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
            )
        return out[:, ids.shape[1] :].tolist()

    return run


def ctranslate2(folder: Path, precision: str) -> Run:
    import ctranslate2 as peer

    place = folder / "ctranslate2"
    if not place.exists():
        converter = peer.converters.TransformersConverter(str(folder / "huggingface"))
        converter.convert(str(place))
        settings = json.loads((place / "config.json").read_text(encoding="utf-8"))
        end = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
        (place / "config.json").write_text(json.dumps({**settings, **end}), encoding="utf-8")
    model = peer.Generator(
        str(place), compute_type=precision, intra_threads=threads() or os.cpu_count()
    )
    words = json.loads((place / "vocabulary.json").read_text(encoding="utf-8"))

    def run(prompts: list[list[int]], new: int) -> Sequence[Sequence[int]]:
        results = model.generate_batch(
            [[words[token] for token in prompt] for prompt in prompts],
            max_length=new,
            min_length=new,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in results]

    return run


def keras_hub(folder: Path, precision: str) -> Run:
    import keras_hub as peer

    model = peer.models.GPT2CausalLM.from_preset(str(folder / "keras_hub"))
    model.compile(sampler="greedy", jit_compile=True)

    def run(prompts: list[list[int]], new: int) -> Sequence[Sequence[int]]:
        length = len(prompts[0]) + new
        ids = np.zeros((len(prompts), length), "int32")
        ids[:, : len(prompts[0])] = prompts
        mask = np.arange(length) < len(prompts[0])
        inputs = {"token_ids": ids, "padding_mask": np.broadcast_to(mask, ids.shape)}
        model.preprocessor = None
        out = model.generate(inputs, max_length=length, stop_token_ids=None)
        return np.asarray(out["token_ids"])[:, len(prompts[0]) :].tolist()

    return run


def llama_cpp(folder: Path, precision: str) -> Run:
    import llama_cpp as peer

    model = peer.Llama(
        str(next(folder.glob("*.gguf"))),
        n_ctx=2048,
        n_threads=threads() or os.cpu_count(),
        verbose=False,
    )

    def run(prompts: list[list[int]], new: int) -> Sequence[Sequence[int]]:
        answers = []
        for prompt in prompts:
            model.reset()
            tokens = model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
            answers.append([next(tokens) for _ in range(new)])
        return answers

    return run


CONTENDERS = {
    "keras_gpt": keras_gpt,
    "saved_model": saved_model,
    "ctranslate2": ctranslate2,
    "transformers": transformers,
    "keras_hub": keras_hub,
    "llama_cpp": llama_cpp,
}


def threads() -> int:
    """Give the number of threads that the contender is to have; 0 where its library decides."""
    return int(sys.argv[1].partition("@")[2] or 0)


def resident_megabytes() -> float:
    """Give the memory that is the process's own, without mapped files."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon"))


def main() -> None:
    """Load, say so, and answer requests until standard input ends."""
    contender, _, precision = sys.argv[1].partition("@")[0].partition(":")
    answers = os.fdopen(os.dup(1), "w")  # libraries print to standard output too
    os.dup2(2, 1)
    if threads():  # TensorFlow, which is not imported yet, is told by these
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads())
        os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    start = time.perf_counter()
    run = CONTENDERS[contender](Path(sys.argv[2]), precision or "float32")
    loaded = {"load_seconds": time.perf_counter() - start, "megabytes": resident_megabytes()}
    print(json.dumps(loaded), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        rng = np.random.default_rng(asked.get("seed", 0))
        shape = (asked["batch"], asked["prompt"])
        prompts = rng.integers(0, asked.get("vocabulary", 40000), shape).tolist()
        start = time.perf_counter()
        ids = run(prompts, asked["new"])
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "ids": list(ids[0]), "megabytes": resident_megabytes()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
