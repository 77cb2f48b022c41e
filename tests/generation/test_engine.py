"""`Engine`: what each request gets is what it gets alone, whoever else is there."""

import threading
import time

import numpy as np
import pytest
from gpt_cases import CONTEXT, make_gpt, random_ids, shared_gpt, small_tokenizer, some

from keras_gpt.generation import Engine, QueueFullError
from keras_gpt.generation.answers import GrowingAnswer
from keras_gpt.generation.batch import Batch
from keras_gpt.generation.prompt_reader import PromptReader
from keras_gpt.generation.requests import Asked, FairQueue, Request
from keras_gpt.generation.rows import Row
from keras_gpt.generation.sampling_options import SamplingOptions
from keras_gpt.generation.steps import DecodeSteps, decode_steps

PROMPTS = [random_ids(n, seed=n).tolist() for n in (3, 9, 17, 25, 30, 5, 12, 40, 1, 22)]


@pytest.fixture(scope="module")
def speaker():
    """A model with a tokenizer."""
    return make_gpt(vocab_size=320, tokenizer=small_tokenizer(), context_length=128)


def alone(gpt, prompt, **settings):
    return gpt.generate(prompt, echo=False, **settings)


@pytest.mark.parametrize("name", some(["gpt3", "llama", "prefix"], "gpt3", "llama"))
@pytest.mark.parametrize("sampled", [False, True])
def test_answers_are_those_that_each_gets_alone(name, sampled):
    gpt = shared_gpt(name)
    rng = np.random.default_rng(0)
    asked = []
    for index, prompt in enumerate(PROMPTS):
        settings = {"max_new_tokens": int(rng.integers(1, CONTEXT - len(prompt) + 1))}
        if sampled:
            settings |= {"temperature": 1.2, "seed": index, "top_p": 0.95}
            settings |= {"repetition_penalty": 1.3} if index % 3 == 0 else {}
        else:
            settings |= {"temperature": 0}
        asked.append((prompt, settings))
    want = [alone(gpt, prompt, **settings) for prompt, settings in asked]
    with Engine(gpt, max_batch=4, chunk=8) as engine:
        requests = []
        for prompt, settings in asked:
            requests.append(engine.submit(prompt, **settings))
            time.sleep(float(rng.uniform(0, 0.02)))
        got = [request.result(timeout=120) for request in requests]
    assert [answer.token_ids for answer in got] == want
    assert all(answer.finish_reason == "length" for answer in got)
    assert all(request.time_to_first > 0 for request in requests)


def test_what_prompts_begin_with_is_read_once(monkeypatch):
    gpt = shared_gpt("gpt3")
    shared = random_ids(24, seed=1).tolist()
    prompts = [[*shared, *random_ids(n, seed=n).tolist()] for n in (1, 6, 11)]
    want = [alone(gpt, prompt, max_new_tokens=8, temperature=0) for prompt in prompts]
    read = []
    padded = PromptReader._padded

    def counted(self, count, time):
        read.append(count)
        return padded(self, count, time)

    monkeypatch.setattr(PromptReader, "_padded", counted)
    with Engine(gpt) as engine:
        for prompt, expected in zip(prompts, want, strict=True):
            answer = engine.submit(prompt, max_new_tokens=8, temperature=0).result(timeout=60)
            assert answer.token_ids == expected
        again = engine.submit(prompts[2], max_new_tokens=8, temperature=0).result(timeout=60)
        assert again.token_ids == want[2]
    assert read == [25, 6, 11, 1]
    with Engine(gpt, shared_bytes=0) as engine:  # keeps nothing
        engine.submit(prompts[2], max_new_tokens=1).result(timeout=60)
        engine.submit(prompts[2], max_new_tokens=1).result(timeout=60)
    assert read == [25, 6, 11, 1, 35, 35]


def test_several_steps_are_taken_at_a_time_while_nobody_could_join(monkeypatch):
    gpt = shared_gpt("gpt3")
    settings = {"max_new_tokens": 14, "temperature": 0}
    prompts = [PROMPTS[0], PROMPTS[1]]
    want = [alone(gpt, prompt, **settings) for prompt in prompts]
    counts, several = [], DecodeSteps.several

    def counted(self, *args):
        found = several(self, *args)
        counts.append(len(found.tokens))
        return found

    monkeypatch.setattr(DecodeSteps, "several", counted)
    with Engine(gpt, max_batch=1) as engine:
        assert engine.submit(prompts[0], **settings).result(timeout=120).token_ids == want[0]
        assert counts == [4, 4, 4, 1]
        looked_at = engine.submit(prompts[0], logprobs=1, **settings).result(timeout=120)
        assert counts[4:] == [1] * 13  # each step's own logits are asked for
        assert len(looked_at.logprobs) == 14
        waiting = []

        def ask_too(text, token):
            if not waiting:
                waiting.append(engine.submit(prompts[1], **settings))

        first = engine.submit(prompts[0], listener=ask_too, **settings)
        assert first.result(timeout=120).token_ids == want[0]
        assert waiting[0].result(timeout=120).token_ids == want[1]
        assert counts[17:] == [4, 4, 4, 1] * 2  # no place would be free any sooner
    del counts[:], waiting[:]
    with Engine(gpt, max_batch=2, chunk=8) as engine:
        first = engine.submit(prompts[0], listener=ask_too, **settings)
        assert first.result(timeout=120).token_ids == want[0]
        assert waiting[0].result(timeout=120).token_ids == want[1]
        assert counts[:3] == [1, 1, 4]  # the other is read after these two steps, in two pieces


def test_a_place_that_becomes_free_is_taken_as_it_is(monkeypatch):
    """No row is copied but the one that joins, and what it asked for goes with it."""
    gpt = shared_gpt("gpt3")
    asked = [
        (PROMPTS[0], {"max_new_tokens": 8, "repetition_penalty": 1.5}),
        (PROMPTS[1], {"max_new_tokens": 30}),
        (PROMPTS[2], {"max_new_tokens": 6}),
    ]
    want = [alone(gpt, prompt, temperature=0, **settings) for prompt, settings in asked]
    sizes, keep, controlled = [], Batch.keep, []
    steps = decode_steps(gpt)
    choose_controlled = steps.choose_controlled

    def kept(self, *args):
        keep(self, *args)
        sizes.append(self.size)

    def counted(*args):
        controlled.append(args[0].shape[0])
        return choose_controlled(*args)

    monkeypatch.setattr(Batch, "keep", kept)
    monkeypatch.setattr(steps, "choose_controlled", counted)
    with Engine(gpt, max_batch=2) as engine:
        others = []

        def ask_too(text, token):
            if not others:
                for prompt, settings in asked[1:]:
                    others.append(engine.submit(prompt, temperature=0, **settings))

        first = engine.submit(asked[0][0], listener=ask_too, temperature=0, **asked[0][1])
        got = [first.result(timeout=120), *[each.result(timeout=120) for each in others]]
    assert [answer.token_ids for answer in got] == want
    assert sizes == [2, 1]  # the second request joins, the third leaves
    assert controlled == [1, 1, *[2] * 6]


def test_text_comes_in_pieces(speaker):
    settings = {"max_new_tokens": 25, "temperature": 1.5, "seed": 2, "stop_token_ids": []}
    whole = alone(speaker, "the cat", **settings)
    stop = whole[len(whole) // 2 :][:2]
    with Engine(speaker) as engine:
        requests = [
            engine.submit("the cat", **settings),
            engine.submit("the cat", stop=stop, logprobs=2, **settings),
            engine.submit(speaker.tokenizer.encode("the cat"), **settings),
        ]
        pieces = [list(request) for request in requests]
        answers = [request.result() for request in requests]
    assert "".join(pieces[0]) == answers[0].text == whole
    assert "".join(pieces[1]) == answers[1].text == whole[: whole.find(stop)]
    assert answers[1].finish_reason == "stop"
    assert [len(top) for top in answers[1].top_logprobs] == [2] * len(answers[1].token_ids)
    assert answers[0].logprobs is None
    assert pieces[2] == answers[2].token_ids == answers[0].token_ids
    assert answers[2].text is None


def test_cancelling_and_deadlines(speaker):
    with Engine(speaker, max_batch=2) as engine:
        long = {"max_new_tokens": 110, "temperature": 0, "stop_token_ids": []}
        first = engine.submit("the cat", **long)
        pieces = iter(first)
        next(pieces)
        pieces.close()  # leaving the loop cancels
        answer = first.result(timeout=60)
        assert answer.finish_reason == "cancelled"
        assert 1 <= len(answer.token_ids) < 110
        late = engine.submit("the cat", deadline=0.0, **long)
        assert late.result(timeout=60).finish_reason == "deadline"
        queued = engine.submit("the cat", **long)
        queued.cancel()
        assert queued.result(timeout=60).finish_reason in ("cancelled", "length")
        after = engine.submit("the mat", max_new_tokens=5, temperature=0)
        assert after.result(timeout=60).text == alone(
            speaker, "the mat", max_new_tokens=5, temperature=0
        )


@pytest.mark.parametrize("max_batch", [1, 3])
def test_the_queue_is_bounded(speaker, max_batch):
    going, begun = threading.Event(), threading.Event()

    def wait(piece, chosen):
        begun.set()
        going.wait(60)

    with Engine(speaker, max_batch=max_batch, max_waiting=4) as engine:
        busy = engine.submit("the cat", max_new_tokens=3, listener=wait)
        assert begun.wait(60)
        # The places that are still free are taken by as many, which do not count as waiting.
        waiting = [engine.submit("a", max_new_tokens=3) for _ in range(4 + max_batch - 1)]
        with pytest.raises(QueueFullError, match="at most 4 requests may wait"):
            engine.submit("a")
        going.set()
        assert all(request.result(timeout=60).token_ids for request in [busy, *waiting])


def test_clients_take_turns():
    waiting = FairQueue(9)
    for client in "aaabbca":
        row = Row([1], 1, SamplingOptions())
        waiting.put(Request(Asked(row, None, False, client, None), GrowingAnswer([1], None, ())))
    order = []
    while (request := waiting.take()) is not None:
        order.append(request.asked.client)
    assert "".join(order) == "abcabaa"
    assert len(waiting) == 0


def test_many_threads(speaker):
    want = alone(speaker, "the cat", max_new_tokens=12, temperature=0)
    got = []
    with Engine(speaker, max_batch=4) as engine:

        def ask():
            got.append(engine.submit("the cat", max_new_tokens=12, temperature=0).result(120).text)

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == [want] * 12


def test_a_request_that_waits_ends_though_no_place_is_free(speaker):
    with Engine(speaker, max_batch=1, max_waiting=2) as engine:
        running = engine.submit("the cat", max_new_tokens=120, stop_token_ids=[], temperature=0)
        pieces = iter(running)
        next(pieces)
        late = engine.submit("the mat", deadline=0.01)
        unwanted = engine.submit("the mat", client="other")
        unwanted.cancel()
        assert unwanted.result(timeout=60).finish_reason == "cancelled"
        assert late.result(timeout=60).finish_reason == "deadline"
        assert late.result().token_ids == unwanted.result().token_ids == []
        assert engine.num_running <= 1
        assert engine.num_waiting == 0
        running.cancel()
        running.result(timeout=60)
        assert not engine.is_closed
    assert engine.is_closed


class Joined(list):
    """Requests that one more joins at the moment when they have been counted."""

    def __len__(self):
        count = super().__len__()
        self.append("late")
        return count


def test_a_request_is_counted_at_every_moment(speaker):
    with Engine(speaker, max_batch=2) as engine:
        engine._reading, engine._running = ("late", None), Joined()
        try:
            assert engine.num_running == 1
        finally:
            engine._reading, engine._running = None, []


def test_the_answers_to_one_prompt_are_those_of_generate(speaker):
    settings = {"max_new_tokens": 6, "temperature": 1.5, "seed": 4, "stop_token_ids": []}
    want = alone(speaker, "the cat", num_return_sequences=3, **settings)
    with Engine(speaker, max_batch=4) as engine:
        asked = [engine.submit("the cat", sequence=n, **settings) for n in range(3)]
        assert [each.result(timeout=60).text for each in asked] == want
        assert len(set(want)) > 1


def test_ids_in_and_text_out_and_a_listener(speaker):
    ids = speaker.tokenizer.encode("the cat")
    settings = {"max_new_tokens": 8, "temperature": 0, "stop_token_ids": []}
    heard = []
    with Engine(speaker) as engine:
        request = engine.submit(
            ids, as_text=True, listener=lambda *event: heard.append(event), **settings
        )
        answer = request.result(timeout=60)
        plain = engine.submit(ids, **settings).result(timeout=60)
        silent = engine.submit("the cat", as_text=False, **settings).result(timeout=60)
    assert answer.text == alone(speaker, "the cat", **settings)
    assert plain.token_ids == silent.token_ids == answer.token_ids
    assert plain.text is silent.text is None
    assert "".join(text for text, _ in heard) == answer.text
    assert [chosen.token for _, chosen in heard if chosen] == answer.token_ids
    assert heard[-1][1] is None


def test_closing_and_failing(speaker, monkeypatch):
    engine = Engine(speaker)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit("a")
    engine = Engine(speaker)
    waiting = engine.submit("the cat", max_new_tokens=110, stop_token_ids=[])
    pieces = iter(waiting)
    next(pieces)
    engine.close()
    with pytest.raises(RuntimeError, match="the engine was closed"):
        waiting.result(timeout=10)
    with pytest.raises(RuntimeError, match="the engine was closed"):
        list(pieces)

    def broken(self, live):
        raise FloatingPointError("no more")

    engine = Engine(speaker)
    monkeypatch.setattr(Batch, "step", broken)
    request = engine.submit("the cat", max_new_tokens=3, stop_token_ids=[])
    with pytest.raises(RuntimeError, match="the engine failed: FloatingPointError"):
        request.result(timeout=60)
    with pytest.raises(RuntimeError, match="the engine failed"):
        list(request)
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit("a")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch": 0}, "max_batch must be an integer"),
        ({"max_waiting": 0}, "max_waiting must be an integer"),
        ({"chunk": 0}, "chunk must be an integer"),
        ({"shared_bytes": -1}, "shared_bytes must be an integer"),
    ],
)
def test_bad_engines(settings, message):
    with pytest.raises(ValueError, match=message):
        Engine(shared_gpt("gpt3"), **settings)


def test_bad_requests(speaker):
    with Engine(speaker) as engine:
        with pytest.raises(ValueError, match="one prompt"):
            engine.submit(["a", "b"])
        with pytest.raises(ValueError, match="deadline must be seconds"):
            engine.submit("a", deadline=-1)
        with pytest.raises(ValueError, match="top_p must be"):
            engine.submit("a", top_p=2)
        with pytest.raises(ValueError, match="sequence must be an integer"):
            engine.submit("a", sequence=-1)
    with (
        Engine(shared_gpt("gpt3")) as engine,
        pytest.raises(ValueError, match="as_text needs a model with a tokenizer"),
    ):
        engine.submit([1], as_text=True)
