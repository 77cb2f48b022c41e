"""After `warmup` nothing is compiled."""

import numpy as np
import pytest
from gpt_cases import make_gpt, random_ids, shared_gpt, small_tokenizer
from machine_code import nothing_compiled

from keras_gpt.generation import Constraint, Engine
from keras_gpt.generation.compiled import num_programs
from keras_gpt.generation.steps import decode_steps

# Functions without weights are compiled for all models: here each model has shapes of its own.
NAMES = ("first", "next", "read", "fold", "choose", "choose_controlled", "logprobs", "_several")


def programs(gpt, names=NAMES):
    steps = decode_steps(gpt)
    return [num_programs(getattr(steps, name)) for name in names]


def test_generate_compiles_nothing_after_it():
    gpt = make_gpt(vocab_size=97, num_kv_heads=1, context_length=100, attention_windows=(None, 5))
    gpt.warmup(batch_size=3)
    counts = programs(gpt)
    assert counts[2] == 0  # generate reads no chunks
    prompts = [random_ids(n, seed=n).tolist() for n in (1, 33, 70)]
    with nothing_compiled():
        for settings in (
            {"temperature": 0},
            {"top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.9},
            {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "logit_bias": {3: 1.0}},
            {"details": True, "logprobs": 4},
        ):
            gpt.generate(prompts, **settings)
            gpt.generate(prompts[1], num_return_sequences=4, max_length=60, **settings)
        list(gpt.stream(prompts[2]))
    assert programs(gpt) == counts


def test_an_engine_compiles_nothing_after_it():
    gpt = make_gpt(vocab_size=98, num_kv_heads=2, context_length=150, attention_windows=(None, 20))
    names = (*NAMES, "first_whole", "keep_windows", "extend", "place", "place_layers")
    before = dict(zip(names, programs(gpt, names), strict=True))
    gpt.warmup(batch_size=4, chunk=50)
    counts = programs(gpt, names)
    # Pasts of 128 and 150; 1, 2 and 4 rows; later pieces of 32 and 50 tokens.
    want = {"_several": 6, "fold": 6, "read": 0, "extend": 4, "keep_windows": 2}
    want["place_layers"] = 6  # of 2 and 4 rows: a layer's keys and values of any length
    assert {name: programs(gpt, [name])[0] - before[name] for name in want} == want
    # Logits of 2 and 4 rows have shapes of their own; their settings may be another model's too.
    assert 2 <= programs(gpt, ["place"])[0] - before["place"] <= 6
    rng = np.random.default_rng(0)
    with nothing_compiled(), Engine(gpt, max_batch=4, chunk=50) as engine:
        requests = [
            engine.submit(
                random_ids(n, seed=0).tolist(),
                max_new_tokens=int(rng.integers(1, 25)),
                repetition_penalty=1.0 + (n == 33),
            )
            for n in (1, 15, 49, 51, 33, 120, 121, 40)
        ]
        for request in requests:
            request.result(timeout=120)
    assert programs(gpt, names) == counts


def test_an_engine_that_reads_prompts_both_ways_compiles_nothing_after_it():
    gpt = make_gpt(context_length=60, bidirectional_prefix=True)
    gpt.warmup(batch_size=1, chunk=16)
    counts = programs(gpt)
    with nothing_compiled(), Engine(gpt, max_batch=1, chunk=16) as engine:
        for n in (5, 40, 55):
            prompt = random_ids(n, seed=0).tolist()
            assert engine.submit(prompt, max_new_tokens=3).result(timeout=120).token_ids
    assert programs(gpt) == counts


def test_constraints_compile_nothing_after_it():
    pytest.importorskip("llguidance", reason="needs the extra `constrain`")
    tokenizer = small_tokenizer()
    gpt = make_gpt(vocab_size=321, tokenizer=tokenizer, context_length=30, num_layers=1)
    gpt.warmup(batch_size=2)
    counts = programs(gpt)
    with nothing_compiled():
        answers = gpt.generate(
            ["the", "a cat"],
            constraint=Constraint.choice(["dog", "x"]),
            max_new_tokens=8,
            echo=False,
        )
    assert set(answers) <= {"dog", "x"}
    assert programs(gpt) == counts


def test_shorter_rows_compile_less():
    gpt = make_gpt(vocab_size=99, num_kv_heads=1, context_length=100)
    gpt.warmup(max_length=40)
    counts = programs(gpt)
    gpt.generate([1, 2, 3], max_length=64)
    assert programs(gpt) == counts
    gpt.generate([1, 2, 3], max_length=90)
    assert programs(gpt) != counts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer"),
        ({"max_length": 49}, "max_length must be an integer, from 1 to 48"),
        ({"chunk": 0}, "chunk must be an integer"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        shared_gpt("gpt3").warmup(**settings)
