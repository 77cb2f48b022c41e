"""`stream`: the continuation in pieces, never half a character."""

import keras
import numpy as np
import pytest
from gpt_cases import CONTEXT, make_gpt, small_tokenizer

from keras_gpt import GPTConfig, generation
from keras_gpt.generation_settings import GenerationSettings
from keras_gpt.key_values import BlockInputs, KeyValues


@pytest.fixture(scope="module")
def speaker():
    return make_gpt(vocab_size=280, tokenizer=small_tokenizer())


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"seed": 3, "temperature": 1.5}])
def test_pieces_are_the_continuation(speaker, settings):
    prompt = "the cat"
    text = speaker.generate(prompt, max_new_tokens=25, **settings)
    pieces = list(speaker.stream(prompt, max_new_tokens=25, **settings))
    assert prompt + "".join(pieces) == text
    assert all(pieces)
    ids = speaker.tokenizer.encode(prompt)
    tokens = list(speaker.stream(ids, max_new_tokens=25, **settings))
    assert ids + tokens == speaker.generate(ids, max_new_tokens=25, **settings)


def test_closing_early(speaker):
    stream = speaker.stream("the cat", max_new_tokens=25, temperature=0)
    first = next(stream)
    stream.close()
    assert list(stream) == []
    again = speaker.stream("the cat", max_new_tokens=25, temperature=0)
    assert next(again) == first


class Silent:
    """A block that has nothing to say."""

    path = "silent"
    weights: list = []


class Reciter:
    """A decoder that says the same ids after any prompt, whatever it reads."""

    variables: list = []
    generation_settings = GenerationSettings()
    blocks = (Silent(),)

    def __init__(self, ids, tokenizer, prompt_length):
        self.tokenizer = tokenizer
        self.config = GPTConfig(
            vocab_size=tokenizer.vocab_size,
            embedding_dim=2,
            num_heads=1,
            feed_forward_dim=1,
            num_layers=1,
            context_length=CONTEXT,
        )
        self._logits = np.eye(tokenizer.vocab_size, dtype="float32")[np.array(ids)]
        self._prompt_length = prompt_length

    def prefill_inputs(self, token_ids, lengths):
        # The states are places in what is said; `next_logits` looks them up.
        return BlockInputs(keras.ops.zeros((*token_ids.shape, 1), "int32"), (), None)

    def prefill_blocks(self, layers, inputs):
        batch, time, _ = inputs.states.shape
        empty = keras.ops.zeros((batch, 1, time, 1))
        return inputs.states, [KeyValues(empty, empty)]

    def score_positions(self, token_ids, prefix_lengths):
        raise NotImplementedError

    def step_inputs(self, token_ids, lengths, slots, sizes, num_slots):
        places = lengths + slots - self._prompt_length + 1
        return BlockInputs(keras.ops.reshape(places, (-1, 1, 1)), (), None)

    def step_blocks(self, layers, inputs, slots, past, recent):
        return inputs.states, list(recent)

    def next_logits(self, states):
        return keras.ops.take(self._logits, states[:, 0], axis=0)


@pytest.mark.parametrize(
    ("said", "pieces"),
    [
        ("é中😀!", ["é", "中", "😀", "!"]),
        ("e\u0301x", ["e", "\u0301", "x"]),
    ],
)
def test_characters_are_never_cut(said, pieces):
    tokenizer = small_tokenizer()
    ids = [
        i for byte in said.encode() for i in range(256) if tokenizer.token_bytes(i) == bytes([byte])
    ]
    assert len(ids) == len(said.encode())
    reciter = Reciter(ids, tokenizer, prompt_length=1)
    got = list(generation.stream(reciter, "a", max_new_tokens=len(ids), temperature=0))
    assert got == pieces
    # Cut off inside a character: the rest is one mark, as in `decode`.
    got = list(generation.stream(reciter, "a", max_new_tokens=1, temperature=0))
    assert got == (["\ufffd"] if len(pieces[0].encode()) > 1 else [pieces[0]])


def test_special_tokens_are_not_shown():
    tokenizer = small_tokenizer()
    end = tokenizer.end_of_text_id
    ids = [*tokenizer.encode("the"), end, *tokenizer.encode("cat")]
    reciter = Reciter(ids, tokenizer, prompt_length=1)
    settings = {"max_new_tokens": len(ids), "temperature": 0}
    assert "".join(generation.stream(reciter, "a", **settings)) == "the"
    on = {**settings, "stop_token_ids": []}
    assert "".join(generation.stream(reciter, "a", **on)) == "thecat"
    assert generation.generate(reciter, "a", **on) == "athecat"
