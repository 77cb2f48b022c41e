"""Accepting drafted tokens: what comes out has the model's distribution, whatever was drafted."""

import keras
import numpy as np
import pytest
from scipy import stats

from keras_gpt.generation.acceptance import accept, drafting_settings
from keras_gpt.generation.random import row_keys, seeds_for, uniforms
from keras_gpt.generation.sampling import Sampling, choose, probabilities

VOCAB, ROWS, STEP = 5, 40_000, 7


def settings_of(count, temperature=1.0, top_k=0, top_p=1.0):
    def vector(value, dtype):
        return keras.ops.convert_to_tensor(np.broadcast_to(value, (count,)).astype(dtype))

    return Sampling(
        temperature=vector(temperature, "float32"),
        top_k=vector(top_k, "int32"),
        top_p=vector(top_p, "float32"),
        min_p=vector(0.0, "float32"),
        typical_p=vector(1.0, "float32"),
        seed=vector(np.arange(count), "int32"),
        sequence=vector(0, "int32"),
    )


def tables(seed, spread):
    """Random logits of the first token, of the second given the first, and so on: three of them."""
    rng = np.random.default_rng(seed)
    return [spread * rng.normal(size=(VOCAB,) * n).astype("float32") for n in (1, 2, 3)]


def numbers(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


class Simulation:
    """Three tokens of many rows: two are drafted, and what is refused is chosen without a draft."""

    def __init__(self, model, draft, counts=2, rows=ROWS, **settings):
        sampling = settings_of(rows, **settings)
        drafting = drafting_settings(sampling)
        given = np.zeros((rows, 0), int)
        q = []
        for place in range(2):
            if draft is None:  # a look-up, that proposes by the token before, and 0 to begin with
                token = (given[:, -1] * 2 + 1) % VOCAB if place else np.zeros(rows, int)
                q.append(np.eye(VOCAB, dtype="float32")[token])
            else:
                logits = draft[place][tuple(given.T)]
                logits = np.broadcast_to(logits, (rows, VOCAB))
                token = numbers(choose(logits, drafting, STEP + place))
                q.append(numbers(probabilities(logits, drafting)))
            given = np.concatenate([given, token[:, None]], axis=1)
        # After the last token, after the first drafted one, after both.
        logits = [
            np.broadcast_to(model[n][tuple(given[:, :n].T)], (rows, VOCAB)) for n in (0, 1, 2)
        ]
        accepted, token = accept(
            np.stack(logits, axis=1),
            given.astype("int32"),
            np.stack(q, axis=1),
            np.broadcast_to(counts, (rows,)).astype("int32"),
            sampling,
            np.full((rows,), STEP, "int32"),
        )
        self.accepted = numbers(accepted)
        answer = np.where(np.arange(3) < self.accepted[:, None], np.pad(given, ((0, 0), (0, 1))), 0)
        answer[np.arange(rows), self.accepted] = numbers(token)
        for place in (1, 2):
            plain = model[place][tuple(answer[:, :place].T)]
            plain = numbers(choose(plain, sampling, STEP + place))
            answer[:, place] = np.where(self.accepted < place, plain, answer[:, place])
        self.answer = answer
        self.drafted, self.q = given, np.stack(q, axis=1)


def joint(model, **settings):
    """The distribution of the three tokens, (VOCAB, VOCAB, VOCAB)."""
    p = [
        numbers(probabilities(each.reshape(-1, VOCAB), settings_of(each.size // VOCAB, **settings)))
        for each in model
    ]
    p = [each.reshape(table.shape).astype("float64") for each, table in zip(p, model, strict=True)]
    return p[0][:, None, None] * p[1][:, :, None] * p[2]


def fits(answers, expected):
    counts = np.histogramdd(answers, bins=[np.arange(VOCAB + 1)] * 3)[0]
    possible = expected > 0
    assert not counts[~possible].any()
    expected = expected[possible] / expected.sum() * len(answers)
    return stats.chisquare(counts[possible], expected).pvalue


@pytest.mark.parametrize("spread", [0.3, 1.5])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.4, "top_k": 3}, {"top_p": 0.8}])
@pytest.mark.parametrize("draft", [True, False])
def test_three_tokens_have_the_model_s_distribution(draft, settings, spread):
    model = tables(0, spread)
    simulation = Simulation(model, tables(1, spread) if draft else None, **settings)
    assert fits(simulation.answer, joint(model, **settings)) > 1e-3
    assert len(set(simulation.accepted)) == 3  # none, one and both: every road was taken


def test_the_test_would_see_a_wrong_distribution():
    model = tables(0, 1.5)
    expected = joint(model)
    answers = Simulation(model, tables(1, 1.5)).answer.copy()
    wrong = answers[:, 1] == answers[:, 0]
    answers[wrong & (np.arange(ROWS) % 10 == 0), 1] = 0  # a few rows, moved
    assert fits(answers, expected) < 1e-3


def test_accepted_is_as_much_as_the_distributions_share():
    model, draft = tables(0, 1.5), tables(1, 1.5)
    simulation = Simulation(model, draft)
    p, q = [np.exp(each[0].astype("float64")) for each in (model, draft)]
    shared = np.minimum(p / p.sum(), q / q.sum()).sum()  # 1 - the total variation distance
    error = np.sqrt(shared * (1 - shared) / ROWS)
    assert abs((simulation.accepted > 0).mean() - shared) < 4 * error


def test_equal_distributions_are_always_accepted():
    model = tables(0, 1.5)
    simulation = Simulation(model, model, top_p=0.9)
    assert (simulation.accepted == 2).all()
    assert fits(simulation.answer, joint(model, top_p=0.9)) > 1e-3


@pytest.mark.parametrize("count", [0, 1])
def test_places_that_do_not_count_are_not_accepted(count):
    model = tables(0, 1.5)
    for draft in (model, tables(1, 1.5)):
        simulation = Simulation(model, draft, counts=count)
        assert simulation.accepted.max() == count
        assert fits(simulation.answer, joint(model)) > 1e-3


def test_greedy_rows_take_the_most_probable_tokens():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(200, 4, VOCAB)).astype("float32")
    best = logits.argmax(-1)
    drafted = np.where(rng.random((200, 3)) < 0.7, best[:, :3], rng.integers(0, VOCAB, (200, 3)))
    q = rng.dirichlet(np.ones(VOCAB), (200, 3)).astype("float32")  # whatever it is
    accepted, token = accept(
        logits,
        drafted.astype("int32"),
        q,
        np.full(200, 3, "int32"),
        settings_of(200, temperature=0.0),
        np.zeros(200, "int32"),
    )
    accepted, token = numbers(accepted), numbers(token)
    want = np.cumprod(drafted == best[:, :3], axis=1).sum(1)
    np.testing.assert_array_equal(accepted, want)
    np.testing.assert_array_equal(token, best[np.arange(200), accepted])
    assert set(accepted) == {0, 1, 2, 3}


def test_purposes_have_numbers_of_their_own():
    seeds = keras.ops.arange(2000, dtype="int32")
    drawn = [
        numbers(uniforms(row_keys(each, seeds * 0, 3), 64)).ravel() - 0.5
        for each in (seeds, seeds_for(1, seeds), seeds_for(2, seeds), seeds_for(1, seeds) + 1)
    ]
    table = np.corrcoef(drawn)
    assert np.abs(table - np.eye(4)).max() < 5 / np.sqrt(2000 * 64)
