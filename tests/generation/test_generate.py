"""`generate`: the cached decode is the plain forward pass, whatever stands beside a prompt."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gpt_cases import (
    ARCHITECTURES,
    CONTEXT,
    logits_of,
    make_gpt,
    random_ids,
    shared_gpt,
    small_tokenizer,
)
from machine_code import nothing_compiled

from keras_gpt.generation import steps as steps_module
from keras_gpt.generation.cache import (
    RECENT_SLOTS,
    batch_bucket,
    fold,
    length_bucket,
    length_buckets,
)
from keras_gpt.generation.compiled import num_programs
from keras_gpt.generation.steps import decode_steps
from keras_gpt.key_values import KeyValues

# Five lengths: the batch crosses the bucket of 32, and the longest fills the context of 48.
PROMPTS = [random_ids(n, seed=n).tolist() for n in (3, 9, 17, 25, 30)]
NEW = CONTEXT - 30


def assert_greedy(gpt, prompt, answer, count):
    """Check that a plain forward pass over the answer would have chosen each of its new tokens."""
    assert answer[: len(prompt)] == prompt
    assert len(answer) == len(prompt) + count
    inputs = {"token_ids": np.array([answer[:-1]])}
    if gpt.config.bidirectional_prefix:
        inputs["prefix_lengths"] = np.array([len(prompt)])
    best = logits_of(gpt, inputs)[0].argmax(-1).tolist()
    assert answer[len(prompt) :] == best[len(prompt) - 1 :]


@pytest.mark.parametrize("name", ["gpt3", "llama"])
def test_cached_decode_is_the_forward_pass(name):
    gpt = shared_gpt(name)
    got = gpt.generate(PROMPTS, max_new_tokens=NEW, temperature=0)
    for prompt, answer in zip(PROMPTS, got, strict=True):
        assert_greedy(gpt, prompt, answer, NEW)


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in ("gpt3", "llama")])
def test_cached_decode_of_the_others_is_the_forward_pass(name):
    gpt = shared_gpt(name)  # within one bucket: the cache grows in the same way for all
    got = gpt.generate(PROMPTS[1:3], max_new_tokens=15, temperature=0)
    for prompt, answer in zip(PROMPTS[1:3], got, strict=True):
        assert_greedy(gpt, prompt, answer, 15)


def test_a_batch_gives_what_each_prompt_gives_alone():
    gpt = shared_gpt("gpt3")
    for settings in (
        {"temperature": 0},
        {"temperature": 1.3, "top_k": 40, "top_p": 0.95, "seed": 7},
    ):
        together = gpt.generate(PROMPTS, max_new_tokens=NEW, **settings)
        alone = [gpt.generate(prompt, max_new_tokens=NEW, **settings) for prompt in PROMPTS]
        assert together == alone


def test_rows_that_end_early_do_not_disturb_the_others():
    gpt = shared_gpt("gpt3")
    plain = gpt.generate(PROMPTS, max_new_tokens=NEW, temperature=0)
    stop = plain[4][32]  # the longest prompt's third new token
    got = gpt.generate(PROMPTS, max_new_tokens=NEW, temperature=0, stop_token_ids=[stop])
    for prompt, a, b in zip(PROMPTS, got, plain, strict=True):
        new = b[len(prompt) :]
        end = new.index(stop) if stop in new else len(new)
        assert a == prompt + new[:end]
    assert len(got[4]) <= 32
    assert gpt.generate(PROMPTS, max_new_tokens=NEW, temperature=0, stop_token_ids=[]) == plain
    first = plain[0][3]
    assert (
        gpt.generate(PROMPTS[0], max_new_tokens=4, temperature=0, stop_token_ids=[first])
        == PROMPTS[0]
    )


def test_seeds():
    gpt = shared_gpt("gpt3")
    settings = {"max_new_tokens": 10, "temperature": 2.0}
    one = gpt.generate(PROMPTS[0], seed=1, **settings)
    assert one == gpt.generate(PROMPTS[0], seed=1, **settings)
    assert one != gpt.generate(PROMPTS[0], seed=2, **settings)
    assert one != gpt.generate(PROMPTS[0], **settings)  # a fresh seed each time
    assert gpt.generate(PROMPTS[0], seed=2**31 - 1, **settings) != one


def test_several_answers():
    gpt = shared_gpt("gpt3")
    settings = {"max_new_tokens": 8, "temperature": 2.0, "seed": 5}
    five = gpt.generate(PROMPTS[1], num_return_sequences=5, **settings)
    assert len(five) == 5
    assert len({tuple(answer) for answer in five}) == 5
    assert gpt.generate(PROMPTS[1], num_return_sequences=7, **settings)[:5] == five
    assert gpt.generate(PROMPTS[1], **settings) == five[0]
    nested = gpt.generate(PROMPTS[:2], num_return_sequences=3, **settings)
    assert [len(answers) for answers in nested] == [3, 3]
    assert nested[1] == five[:3]


def test_greedy_by_every_name():
    gpt = shared_gpt("gpt3")
    want = gpt.generate(PROMPTS[2], max_new_tokens=6, temperature=0)
    for settings in ({"top_k": 1}, {"top_p": 1e-9}, {"top_k": 1, "temperature": 3.0}):
        assert gpt.generate(PROMPTS[2], max_new_tokens=6, seed=3, **settings) == want


def test_lengths():
    gpt = shared_gpt("gpt3")
    prompt = PROMPTS[0]  # 3 tokens
    assert len(gpt.generate(prompt, max_length=10, temperature=0)) == 10
    assert len(gpt.generate(prompt, max_new_tokens=10, temperature=0)) == 13
    assert len(gpt.generate(prompt, temperature=0)) == CONTEXT
    several = gpt.generate([*PROMPTS[:2]] * 3, max_length=12, temperature=0)
    assert [len(answer) for answer in several] == [12] * 6
    full = random_ids(CONTEXT - 1, seed=3).tolist()
    assert len(gpt.generate(full, temperature=0)) == CONTEXT


def test_truncate_keeps_what_it_says():
    gpt = shared_gpt("gpt3")
    long, kept = random_ids(60, seed=4).tolist(), CONTEXT - 5  # 43 tokens
    settings = {"max_new_tokens": 5, "temperature": 0}
    wanted = {"left": long[-kept:], "right": long[:kept], "middle": [*long[:21], *long[-22:]]}
    for truncate, prompt in wanted.items():
        got = gpt.generate(long, truncate=truncate, **settings)
        assert got == gpt.generate(prompt, **settings)
        assert got[:kept] == prompt
        short = PROMPTS[0]
        assert gpt.generate(short, truncate=truncate, **settings)[:3] == short


def test_an_answer_tells_what_was_cut_out_of_its_prompt():
    gpt = shared_gpt("gpt3")
    prompts = [random_ids(60, seed=4).tolist(), PROMPTS[0]]
    answers = gpt.generate(
        prompts, max_new_tokens=5, temperature=0, truncate="middle", details=True
    )
    assert [answer.dropped_prompt_tokens for answer in answers] == [60 + 5 - CONTEXT, 0]
    start, end = answers[0].dropped_prompt_start, answers[0].dropped_prompt_start + 60 + 5 - CONTEXT
    short = [*prompts[0][:start], *prompts[0][end:]]
    again = gpt.generate(short, max_new_tokens=5, temperature=0, echo=False)
    assert answers[0].token_ids == again
    assert start == (CONTEXT - 5) // 2


def test_forms_of_prompts():
    gpt = shared_gpt("gpt3")
    settings = {"max_new_tokens": 3, "temperature": 0}
    want = gpt.generate(PROMPTS[0], **settings)
    assert all(type(token) is int for token in want)
    row = np.array(PROMPTS[0])
    for prompt in (tuple(PROMPTS[0]), row, row.astype("uint8"), tf.constant(row), list(row)):
        assert gpt.generate(prompt, **settings) == want
    for prompts in (row[None], [row], [PROMPTS[0]], tf.constant(row[None])):
        assert gpt.generate(prompts, **settings) == [want]


@pytest.fixture(scope="module")
def speaker():
    """A model with a tokenizer, and a vocabulary rounded up beyond it."""
    return make_gpt(vocab_size=320, tokenizer=small_tokenizer())


def test_text_gives_text(speaker):
    tokenizer = speaker.tokenizer
    settings = {"max_new_tokens": 6, "temperature": 0}
    text = speaker.generate("the cat", **settings)
    ids = speaker.generate(tokenizer.encode("the cat"), **settings)
    assert isinstance(text, str)
    assert text.startswith("the cat")
    assert text == tokenizer.decode(ids, skip_special=True)
    assert speaker.generate(["the cat"], **settings) == [text]
    several = speaker.generate(
        ["the cat", "Once"], num_return_sequences=2, seed=1, max_new_tokens=1
    )
    assert [[type(answer) for answer in answers] for answers in several] == [[str] * 2] * 2


def test_ids_that_stand_for_no_text_are_never_chosen(speaker):
    known = speaker.tokenizer.vocab_size
    prompt = speaker.tokenizer.encode("the cat")
    rows = speaker.generate(
        prompt,
        max_new_tokens=30,
        temperature=50.0,
        num_return_sequences=4,
        seed=0,
        stop_token_ids=[],
    )
    assert max(max(row) for row in rows) < known
    best = logits_of(speaker, np.array([prompt]))[0, -1, :known].argmax()
    assert speaker.generate(prompt, max_new_tokens=1, temperature=0)[-1] == best


def test_end_of_text_stops_by_default(speaker):
    end = speaker.tokenizer.end_of_text_id
    matrix = speaker.token_embedding.embeddings
    kept = np.asarray(matrix).copy()
    prompt = speaker.tokenizer.encode("the cat sat")
    # Make the end of text the most probable token after this prompt, by its own direction.
    state = np.asarray(speaker.hidden_states(np.array([prompt])))[0, -1]
    changed = kept.copy()
    changed[end] = state * 10
    try:
        matrix.assign(changed)
        assert speaker.generate(prompt, max_new_tokens=5, temperature=0) == prompt
        assert speaker.generate("the cat sat", max_new_tokens=5, temperature=0) == "the cat sat"
        assert list(speaker.stream("the cat sat", max_new_tokens=5, temperature=0)) == []
        on = speaker.generate(prompt, max_new_tokens=5, temperature=0, stop_token_ids=[])
        assert on[len(prompt)] == end
        assert len(on) == len(prompt) + 5
        # Compiled functions see the new values.
        assert speaker.generate(prompt, max_new_tokens=5, temperature=0) == prompt
    finally:
        matrix.assign(kept)


def test_nothing_is_compiled_twice():
    gpt = shared_gpt("gpt3")
    steps = decode_steps(gpt)
    gpt.generate(PROMPTS, max_new_tokens=NEW, seed=1)
    for rows in (1, 8):  # long enough for the recent keys and values to be folded into the past
        gpt.generate([[1]] * rows, max_new_tokens=RECENT_SLOTS + 2, seed=1)
    functions = (steps.first, steps.next, steps.fold)
    counts = [num_programs(function) for function in functions]
    with nothing_compiled():
        for prompts, settings in (
            (PROMPTS, {"temperature": 0, "max_new_tokens": 4}),
            (PROMPTS[::-1], {"top_k": 3, "top_p": 0.5, "max_new_tokens": 18}),
            ([[1]] * 7, {"seed": 9, "max_length": 40}),
            ([4, 5], {"temperature": 0.1}),
            (list(range(31)), {"num_return_sequences": 8, "max_new_tokens": 2}),
        ):
            gpt.generate(prompts, **settings)
    assert decode_steps(gpt) is steps
    assert [num_programs(function) for function in functions] == counts


def test_steps_of_a_deep_model_are_programs_of_their_own(monkeypatch):
    monkeypatch.setattr(steps_module, "_MOST_BLOCKS_IN_A_LOOP", 1)
    gpt = make_gpt()
    got = gpt.generate(PROMPTS[1:3], max_new_tokens=15, temperature=0)
    for prompt, answer in zip(PROMPTS[1:3], got, strict=True):
        assert_greedy(gpt, prompt, answer, 15)


def test_full_slots_go_behind_each_row_s_past():
    rng = np.random.default_rng(0)
    shape = (3, 2, 40, 4)
    past = [KeyValues(*rng.normal(size=(2, *shape)).astype("float32")) for _ in range(2)]
    recent = [KeyValues(*rng.normal(size=(2, 3, 2, 8, 4)).astype("float32")) for _ in range(2)]
    lengths, slots = np.array([0, 17, 36], "int32"), np.array([8, 0, 4], "int32")
    got = fold(past, recent, tf.constant(lengths), tf.constant(slots))
    for layer, old, new in zip(got, past, recent, strict=True):
        for part, before, moved in zip(layer, old, new, strict=True):
            want = before.copy()
            for row, (length, count) in enumerate(zip(lengths, slots, strict=True)):
                want[row, :, length : length + count] = moved[row, :, :count]
            np.testing.assert_array_equal(part, want)


def test_buckets():
    assert length_buckets(200) == [32, 64, 128, 200]
    assert length_buckets(10) == [10]
    assert [length_bucket(n, 200) for n in (1, 32, 33, 128, 129, 200)] == [
        32,
        32,
        64,
        128,
        200,
        200,
    ]
    assert [batch_bucket(n) for n in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]


def test_half_precision_decodes_as_its_forward_pass_without_dropout_and_noise():
    keras.utils.set_random_seed(0)  # few weights have ties nearer than what is allowed below
    gpt = make_gpt(
        dtype="bfloat16", positions="sinusoidal", position_noise=0.5, residual_dropout=0.5
    )
    prompt = PROMPTS[1]
    got = gpt.generate(prompt, max_new_tokens=8, temperature=0)
    logits = logits_of(gpt, np.array([got[:-1]]))[0]
    # Sums in another order may tip a near tie, which 8 bits make common.
    for t in range(len(prompt) - 1, len(got) - 1):
        assert logits[t, got[t + 1]] > logits[t].max() - 0.02 * logits[t].std()
