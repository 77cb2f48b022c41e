"""Answers that follow a form: whatever a model with random weights writes, it parses."""

import builtins
import json
import re

import numpy as np
import pytest
from gpt_cases import make_gpt, shared_gpt, small_tokenizer, some

from keras_gpt import Tokenizer
from keras_gpt.generation import Constraint, Engine
from keras_gpt.generation.batch import Batch, read_at_once
from keras_gpt.generation.constraints import start_constraint
from keras_gpt.generation.options import read_prompts as read_prompt_ids
from keras_gpt.generation.options import read_rows

pytest.importorskip("llguidance", reason="needs the extra `constrain`")

PATTERN = r"the( (cat|mat|éclair😀))+[.!]"
CHOICES = ["the cat", "the cat sat", 'a "quote"\n', "naïve 漢字", "\\"]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["é", "b", None]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
ARITHMETIC = r"""
start: sum
sum: term (("+" | "-") term)*
term: factor ("*" factor)*
factor: NUMBER | "(" sum ")"
NUMBER: /[1-9][0-9]?/
"""


@pytest.fixture(scope="module")
def speaker():
    """A model with a tokenizer, and logits for ids that the tokenizer does not have."""
    return make_gpt(vocab_size=320, tokenizer=small_tokenizer(), context_length=128)


def is_json(text):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(text), SCHEMA)
    return "\n" not in text


def is_arithmetic(text):
    return re.fullmatch(r"[0-9+*()-]+", text) is not None and isinstance(eval(text), int)


FORMS = {
    "regex": (lambda: Constraint.regex(PATTERN), lambda text: re.fullmatch(PATTERN, text)),
    "json": (lambda: Constraint.json_schema(SCHEMA), is_json),
    "choice": (lambda: Constraint.choice(CHOICES), lambda text: text in CHOICES),
    "grammar": (lambda: Constraint.grammar(ARITHMETIC), is_arithmetic),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stops", some([None, []], None))
def test_every_finished_answer_parses(speaker, form, stops):
    make, parses = FORMS[form]
    reasons, texts = [], set()
    for seed in range(5):
        answers = speaker.generate(
            "the cat",
            max_new_tokens=60,
            temperature=3.0,
            num_return_sequences=8,
            seed=seed,
            constraint=make(),
            stop_token_ids=stops,
            echo=False,
            details=True,
        )
        for answer in answers:
            reasons.append(answer.finish_reason)
            if answer.finish_reason == "stop":
                assert parses(answer.text), answer.text
                assert speaker.tokenizer.decode(answer.token_ids) == answer.text
                texts.add(answer.text)
    assert set(reasons) <= {"stop", "length"}
    if stops is None or form in ("regex", "json", "choice"):
        assert len(texts) > 2


def test_stop_tokens_are_allowed_where_the_text_may_end():
    tokenizer = small_tokenizer()
    (end,) = tokenizer.special_tokens.values()
    byte = tokenizer.token_to_id
    constraint = Constraint.regex("ab?(cd)?")
    state = start_constraint(tokenizer, constraint, [end, byte("z"), 10**6])
    assert state.allowed().shape == (tokenizer.vocab_size,)
    seen = []
    for letter in "abcd":
        seen.append({tokenizer.id_to_token(i) for i in np.flatnonzero(state.allowed())})
        assert state.ended is None
        before = state.copy()
        state.accept(byte(letter))
    ends = {"<|endoftext|>", "z"}
    assert seen == [{"a"}, {"b", "c"} | ends, {"c"} | ends, {"d"}]
    assert state.ended == "stop"
    assert set(np.flatnonzero(state.allowed())) == {end, byte("z")}
    assert before.ended is None  # a copy stays where it was
    assert np.flatnonzero(before.allowed()).tolist() == [byte("d")]
    with pytest.raises(ValueError, match="token must be one that is allowed here"):
        before.accept(byte("a"))
    early = start_constraint(tokenizer, constraint, [end])
    early.accept(byte("a"))
    early.accept(end)
    assert early.ended == "stop"


@pytest.mark.parametrize("form", FORMS)
def test_something_is_always_allowed(form):
    tokenizer = small_tokenizer()
    (end,) = tokenizer.special_tokens.values()
    rng = np.random.default_rng(0)
    for _ in range(20):
        state = start_constraint(tokenizer, FORMS[form][0](), [])
        for _ in range(80):
            allowed = np.flatnonzero(state.allowed())
            assert len(allowed)
            assert end not in allowed
            state.accept(int(rng.choice(allowed)))
            if state.ended:
                break
        assert state.ended in ("stop", None)


def test_a_batch_holds_rows_with_and_without_constraints(speaker):
    asked = []
    for seed, form in enumerate([*FORMS, None, *FORMS, None, *FORMS]):
        settings = {"max_new_tokens": 20 + seed, "temperature": 2.0, "seed": seed}
        if form is not None:
            settings["constraint"] = FORMS[form][0]()
        if seed % 3 == 0:
            settings["repetition_penalty"] = 1.2
        asked.append(("the cat sat"[: seed % 8 + 3], settings))
    want = [
        speaker.generate(prompt, echo=False, details=True, **settings) for prompt, settings in asked
    ]
    with Engine(speaker, max_batch=4, chunk=8) as engine:
        requests = [engine.submit(prompt, **settings) for prompt, settings in asked]
        got = [request.result(timeout=300) for request in requests]
    assert [answer.text for answer in got] == [answer.text for answer in want]
    assert [answer.finish_reason for answer in got] == [answer.finish_reason for answer in want]
    prompt, settings = asked[0]
    assert "".join(speaker.stream(prompt, **settings)) == want[0].text
    ids = speaker.tokenizer.encode(prompt)
    assert list(speaker.stream(ids, **settings)) == want[0].token_ids
    assert speaker.generate(ids, echo=False, **settings) == want[0].token_ids
    with Engine(speaker) as engine:
        assert list(engine.submit(ids, **settings)) == want[0].token_ids


def test_rows_that_are_kept_twice_go_on_apart(speaker):
    prompts = read_prompt_ids(speaker, "the cat")
    rows = read_rows(
        speaker,
        prompts,
        num_return_sequences=3,  # a batch of 4: one place is filled up
        max_new_tokens=40,
        temperature=3.0,
        seed=1,
        constraint=Constraint.regex("[a-z]{30}"),
    )
    batch = Batch(speaker, rows, read_at_once(speaker, rows))
    batch.keep([1, 1, 2])
    texts = [[int(token)] for token in batch.tokens[:3]]
    # The same row, but another answer to it: both go on from the same token.
    assert texts[0] == texts[1]
    batch._sampling = batch._sampling._replace(sequence=np.array([0, 7, 2, 0], "int32"))
    while not any(batch.end_of(place) for place in range(3)):
        batch.step(range(3))
        for place, text in enumerate(texts):
            text.append(int(batch.tokens[place]))
    pieces = [speaker.tokenizer.decode(text) for text in texts]
    assert pieces[0] != pieces[1]
    assert all(re.fullmatch("[a-z]{1,30}", piece) for piece in pieces)


def test_other_settings_do_not_break_a_constraint(speaker):
    constraint = Constraint.choice(["ab", "ac"])
    id_of = speaker.tokenizer.token_to_id
    settings = {"max_new_tokens": 10, "echo": False, "constraint": constraint}
    assert speaker.generate("the", min_new_tokens=9, **settings) in ("ab", "ac")
    assert speaker.generate("the", banned_token_ids=[id_of("b")], **settings) == "ac"
    both = [id_of("b"), id_of("c")]
    assert speaker.generate("the", banned_token_ids=both, **settings) in ("ab", "ac")
    forced = [id_of("a"), id_of("c")]
    assert speaker.generate("the", forced_token_ids=forced, **settings) == "ac"
    for ids in (forced[::-1], [*forced, id_of("a")]):
        with pytest.raises(ValueError, match="forced_token_ids must follow the constraint"):
            speaker.generate("the", forced_token_ids=ids, **settings)


def test_characters_that_have_no_token():
    tokenizer = Tokenizer.train_from_texts(["the catx"], level="character")
    gpt = make_gpt(vocab_size=16, tokenizer=tokenizer)
    settings = {"max_new_tokens": 10, "echo": False, "details": True, "temperature": 5.0}
    found = {}
    for seed in range(20):
        answer = gpt.generate(
            "the", seed=seed, constraint=Constraint.choice(["the dog", "x", "cat"]), **settings
        )
        found.setdefault(answer.finish_reason, set()).add(answer.text)
    assert found["stop"] == {"x", "cat"}
    assert all("the dog".startswith(text) for text in found["constraint"])
    with pytest.raises(ValueError, match="constraint must allow a text"):
        gpt.generate("the", constraint=Constraint.choice(["dog"]))


def test_text_that_encode_would_change_can_be_written():
    small = small_tokenizer()
    ids = [small.id_to_token(i) for i in range(small.vocab_size)]
    vocabulary = {token: i for i, token in enumerate(ids)}
    tokenizer = Tokenizer(vocabulary, small.merges, nfc=True)
    text = "cafe\u0301 sat"  # NFC would make one character of e and its accent
    state = start_constraint(tokenizer, Constraint.choice([text]), [])
    written = []
    while state.ended is None:
        written.append(int(np.flatnonzero(state.allowed())[0]))
        state.accept(written[-1])
    assert state.ended == "stop"
    assert tokenizer.decode(written) == text


def test_what_is_forced_is_cut_as_encode_cuts_it():
    tokenizer = small_tokenizer()
    text = "the cat sat on the mat"
    state = start_constraint(tokenizer, Constraint.choice([text]), [])
    written = []
    while state.ended is None:
        (token,) = np.flatnonzero(state.allowed())
        written.append(int(token))
        state.accept(written[-1])
    assert written == tokenizer.encode(text)


def test_constraints_are_values():
    assert Constraint.regex("a+") == Constraint.regex("a+")
    assert len({Constraint.regex("a"), Constraint.regex("a"), Constraint.regex("b")}) == 2
    assert Constraint.json_schema(json.dumps(SCHEMA)) == Constraint.json_schema(SCHEMA)
    with pytest.raises(AttributeError):
        Constraint.regex("a").definition = "b"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constraint.regex("("), r"pattern must be .*unclosed group.*Received: pattern="),
        (lambda: Constraint.regex(3), "pattern must be a string"),
        (lambda: Constraint.regex("\ud800"), "pattern must be .*surrogates not allowed"),
        (lambda: Constraint.json_schema("{"), "schema must be .*Expecting property name"),
        (lambda: Constraint.json_schema([1]), "schema must be a JSON object"),
        (lambda: Constraint.json_schema({"type": "foo"}), "schema must be .*foo"),
        (lambda: Constraint.json_schema({"type": {1}}), "schema must be .*set"),
        (lambda: Constraint.json_schema({"not": {}}), "schema must be .*not"),
        (lambda: Constraint.choice([]), "choices must be a list of strings"),
        (lambda: Constraint.choice("abc"), "choices must be a list of strings"),
        (lambda: Constraint.choice(["a", ""]), "choices must be a list of strings"),
        (lambda: Constraint.grammar("start: foo"), "text must be .*unknown name"),
        (lambda: Constraint.grammar(None), "text must be a string"),
    ],
)
def test_bad_constraints(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()


def test_bad_uses(speaker):
    with pytest.raises(ValueError, match="this model has no tokenizer"):
        shared_gpt("gpt3").generate([1], constraint=Constraint.regex("a"))
    with pytest.raises(TypeError, match="constraint must be a keras_gpt"):
        speaker.generate("a", constraint="[a-z]+")
    with pytest.raises(ValueError, match="constraint must allow a text that is not empty"):
        speaker.generate("a", constraint=Constraint.regex(""))
    with pytest.raises(ValueError, match="a token that is no stop token"):
        speaker.generate(
            "a",
            constraint=Constraint.regex("q+"),
            stop_token_ids=[speaker.tokenizer.token_to_id("q")],
        )
    gpt1 = Tokenizer({"<unk>": 0, "a": 1, "a</w>": 2}, [], level="gpt1")
    with pytest.raises(ValueError, match="level='gpt1'"):
        start_constraint(gpt1, Constraint.regex("a"), [])


def test_without_the_library(monkeypatch):
    load = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "llguidance":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'keras-gpt\[constrain\]'"):
        Constraint.regex("a")
