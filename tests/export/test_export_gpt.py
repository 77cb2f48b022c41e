"""A GPT as a SavedModel: the same answers as `generate`, `score` and a call give."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPT, Tokenizer
from keras_gpt.export.check import ask_in_other_process

# Of several lengths, the fourth on the far side of a length bucket's border, at 32.
PROMPTS = [
    "The quick",
    "W",
    "The quick brown fox jumps over the lazy dog, and then it rests.",
    "Why not? 日本語も。 The quick brown fox jumps over the lazy dog, and then it rests.",
    "日本語も",
]
# What a request to a server leaves out, in the order of the signature.
DEFAULTS = {
    "max_new_tokens": 64,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": -1,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "logprobs": -1,
    "stop": [b""],
    "echo": True,
}
OUTPUTS = {
    "text",
    "completion",
    "finish_reason",
    "token_ids",
    "num_tokens",
    "log_probabilities",
    "top_token_ids",
    "top_log_probabilities",
}


@pytest.fixture(scope="module")
def gpt(make_gpt: Callable[..., GPT]) -> GPT:
    """A GPT with context for three growths of the cache, which ends some of its greedy answers."""
    gpt = make_gpt()
    end = gpt.tokenizer.end_of_text_id
    prompt = gpt.tokenizer.encode(PROMPTS[0])
    answer = gpt.generate(prompt, max_new_tokens=16, temperature=0.0, stop_token_ids=[])
    new = answer[len(prompt) :]
    # The sixth token becomes the end of text, by exchanging the two rows of the (tied) embedding.
    token = next(token for token in new[5:] if token not in new[:5] + prompt)
    table = gpt.token_embedding.embeddings.numpy()
    table[[end, token]] = table[[token, end]]
    gpt.token_embedding.embeddings.assign(table)
    return gpt


@pytest.fixture(scope="module")
def folder(gpt: GPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tiny" / "1"
    tf.random.set_seed(1)  # which must not go into the file
    gpt.export(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return tf.saved_model.load(str(folder))


def test_the_prompts_lie_around_a_bucket_border(words: Tokenizer) -> None:
    """The comparisons below mean what they say only if this holds."""
    lengths = [len(words.encode(prompt)) for prompt in PROMPTS]
    assert min(lengths) == 1
    assert sum(length <= 32 for length in lengths) == 4


@pytest.mark.parametrize("count", [1, 3, 5])
def test_greedy_answers_are_those_of_generate_alone(
    gpt: GPT, loaded: Any, ask: Callable[..., dict[str, Any]], count: int
) -> None:
    """Batches of 1, 3 and 5: each row is what its prompt gives alone, in text and ids."""
    prompts = PROMPTS[:count]
    answer = ask(loaded, prompts, max_new_tokens=[16])
    for row, prompt in enumerate(prompts):
        ids = gpt.generate(gpt.tokenizer.encode(prompt), max_new_tokens=16, temperature=0.0)
        assert answer["text"][row].decode() == gpt.tokenizer.decode(ids, skip_special=True)
        assert answer["text"][row].decode() == gpt.generate(
            prompt, max_new_tokens=16, temperature=0.0
        )
        assert answer["num_tokens"][row] == len(ids)
        assert answer["token_ids"][row, : len(ids)].tolist() == ids
        assert (answer["token_ids"][row, len(ids) :] == -1).all()
    assert answer["token_ids"].shape[1] == answer["num_tokens"].max()


def test_a_row_stops_at_the_end_of_text_and_leaves_it_out(
    gpt: GPT, loaded: Any, ask: Callable[..., dict[str, Any]]
) -> None:
    """The first prompt's answer ends in the middle; the others go on."""
    answer = ask(loaded, PROMPTS, max_new_tokens=[16])
    lengths = [len(gpt.tokenizer.encode(prompt)) for prompt in PROMPTS]
    new = answer["num_tokens"] - lengths
    assert 5 <= new[0] < 16
    assert new.max() == 16
    assert gpt.tokenizer.end_of_text_id not in answer["token_ids"]


def test_each_row_has_its_own_settings(
    gpt: GPT, loaded: Any, ask: Callable[..., dict[str, Any]]
) -> None:
    """Greedy and sampled rows, limits and seeds in one batch: each as `generate` with them, alone."""
    rows = [
        {"max_new_tokens": 20, "temperature": 0.7, "top_k": 50, "top_p": 0.9, "seed": 0},
        {"max_new_tokens": 12, "temperature": 1.3, "top_k": 0, "top_p": 1.0, "seed": 11},
        {"max_new_tokens": 5, "temperature": 0.0, "top_k": 3, "top_p": 0.5, "seed": 5},
        {"max_new_tokens": 1, "temperature": 2.0, "top_k": 0, "top_p": 0.6, "seed": 2**31 - 1},
        {"max_new_tokens": 20, "temperature": 1.0, "top_k": 2, "top_p": 1.0, "seed": 12},
    ]
    answer = ask(loaded, PROMPTS, **{name: [row[name] for row in rows] for name in rows[0]})
    for text, prompt, row in zip(answer["text"], PROMPTS, rows, strict=True):
        settings = {**row, "top_k": row["top_k"] or None}
        assert text.decode() == gpt.generate(prompt, **settings)


def test_one_seed_for_all_rows_gives_what_each_gives_alone(
    gpt: GPT, loaded: Any, ask: Callable[..., dict[str, Any]]
) -> None:
    """A setting of one entry holds for every row."""
    settings = {"max_new_tokens": 20, "temperature": 1.0, "top_k": 40, "seed": 3}
    answer = ask(loaded, PROMPTS[:3], **{name: [value] for name, value in settings.items()})
    alone = [gpt.generate(prompt, **settings) for prompt in PROMPTS[:3]]
    assert [text.decode() for text in answer["text"]] == alone


def test_the_cache_grows_over_every_border_up_to_the_whole_context(
    gpt: GPT, loaded: Any, ask: Callable[..., dict[str, Any]]
) -> None:
    """From 3 tokens to all 128: buckets of 32, 64 and 128."""
    ids = gpt.tokenizer.encode("The quick")
    settings = {"max_new_tokens": 128 - len(ids), "temperature": 1.0}
    answers = {seed: gpt.generate(ids, seed=seed, **settings) for seed in range(10)}
    seed = next(seed for seed, answer in answers.items() if len(answer) == 128)
    settings["seed"] = seed
    answer = ask(loaded, ["The quick"], **{name: [value] for name, value in settings.items()})
    assert answer["token_ids"][0].tolist() == answers[seed]


def test_score_is_that_of_the_model(gpt: GPT, loaded: Any) -> None:
    """Alone and given a source, in a batch of different lengths; an empty source is none."""
    targets = ["The quick brown", "日本", "dog"]
    answer = loaded.signatures["score"](
        text=tf.constant(targets), given=tf.constant(["Why not?", "", "The quick"])
    )
    expected = gpt.score(targets, given=["Why not?", "lazy", "The quick"])
    alone = gpt.score(targets)
    expected[1] = alone[1]
    np.testing.assert_allclose(answer["log_probability"], expected, rtol=1e-5)
    counts = [len(gpt.tokenizer.encode(target)) for target in targets]
    assert answer["num_tokens"].numpy().tolist() == counts
    answer = loaded.signatures["score"](text=tf.constant(targets), given=tf.constant([""]))
    np.testing.assert_allclose(answer["log_probability"], alone, rtol=1e-5)


def test_token_logits_are_those_of_a_call(gpt: GPT, loaded: Any) -> None:
    """Two rows of ids, at every position."""
    ids = np.random.default_rng(0).integers(0, gpt.config.vocab_size, (2, 40)).astype("int32")
    answer = loaded.signatures["token_logits"](token_ids=tf.constant(ids))
    np.testing.assert_allclose(answer["logits"], gpt(ids), rtol=1e-5, atol=1e-4)
    for bad in (gpt.config.vocab_size, -1):
        with pytest.raises(tf.errors.InvalidArgumentError, match="token_ids must be from 0 to 299"):
            loaded.signatures["token_logits"](token_ids=tf.constant([[bad]]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 128 long"):
        loaded.signatures["token_logits"](token_ids=tf.zeros([1, 129], tf.int32))


def test_the_file_tells_a_server_the_defaults(
    folder: Path, read_graph: Callable[[Path], Any]
) -> None:
    """All inputs but the prompt may be left out: TensorFlow Serving reads them from here."""
    definitions = read_graph(folder).signature_def
    assert {"serving_default", "generate", "generate_with_defaults", "score"} <= set(definitions)
    for name in ("serving_default", "generate"):
        definition = definitions[name]
        defaults = {key: tf.make_ndarray(value) for key, value in definition.defaults.items()}
        assert set(definition.inputs) - set(defaults) == {"prompt"}
        assert {key: value.tolist() for key, value in defaults.items()} == {
            key: [value] for key, value in DEFAULTS.items()
        }
        for key, value in defaults.items():
            assert tf.as_dtype(definition.inputs[key].dtype) == value.dtype
        assert set(definition.outputs) == OUTPUTS
    assert set(definitions["generate_with_defaults"].inputs) == {"prompt"}
    score = definitions["score"]
    assert set(score.inputs) - set(score.defaults) == {"text"}


def test_a_prompt_alone_is_enough_and_draws_anew_each_time(gpt: GPT, loaded: Any) -> None:
    """`generate_with_defaults` takes the prompt alone; without a seed no two answers are equal."""
    prompts = tf.constant([PROMPTS[0]] * 3)
    answers = [
        text.decode()
        for _ in range(2)
        for text in loaded.signatures["generate_with_defaults"](prompt=prompts)["text"].numpy()
    ]
    assert len(set(answers)) == 6
    assert all(answer.startswith(PROMPTS[0]) for answer in answers)


def test_a_seed_of_the_exporting_process_does_not_go_into_the_file(
    folder: Path, read_graph: Callable[[Path], Any]
) -> None:
    """An op with a seed would draw the same numbers after every start of a server."""
    graph = read_graph(folder).graph_def
    nodes = [node for function in graph.library.function for node in function.node_def]
    random = [node for node in nodes if node.op.startswith("Random")]
    assert random
    assert all(node.attr["seed"].i == node.attr["seed2"].i == 0 for node in random)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        (["ok", ""], {}, "prompt must not be empty"),
        (["The quick " * 90], {}, "must fit the context of 128 tokens"),
        (["dog"], {"max_new_tokens": [128]}, "must fit the context of 128 tokens"),
        (["dog"], {"max_new_tokens": [0]}, "max_new_tokens must be at least 1"),
        (["dog"], {"temperature": [-0.1]}, "temperature must be 0 or more"),
        (["dog"], {"temperature": [float("nan")]}, "temperature must be 0 or more"),
        (["dog"], {"top_k": [-1]}, "top_k must be 0"),
        (["dog"], {"top_p": [0.0]}, "top_p must be above 0, at most 1"),
        (["dog"], {"top_p": [1.5]}, "top_p must be above 0, at most 1"),
        (["a", "b", "c"], {"seed": [1, 2]}, "seed must have one value, or one a row"),
        (["a"], {"temperature": [1.0, 1.0]}, "temperature must have one value, or one a row"),
    ],
)
def test_bad_requests_are_named(
    loaded: Any,
    ask: Callable[..., dict[str, Any]],
    prompt: list[str],
    settings: dict[str, Any],
    message: str,
) -> None:
    """What a client reads says what is wrong."""
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ask(loaded, prompt, **settings)


def test_bad_scores_are_named(loaded: Any) -> None:
    """Empty and too long, and sources that are not one a target."""
    score = loaded.signatures["score"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="text must not be empty"):
        score(text=tf.constant([""]), given=tf.constant(["a"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must fit 129 tokens"):
        score(text=tf.constant(["The quick " * 90]), given=tf.constant([""]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="given must have one value, or one a"):
        score(text=tf.constant(["a", "b", "c"]), given=tf.constant(["a", "b"]))


def test_plain_tensorflow_in_another_process_gives_the_same(
    gpt: GPT,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_graph: Callable[[Path], Any],
) -> None:
    """No keras_gpt, tokenizers or tensorflow_text is loaded there, and every op is TensorFlow's."""
    graph = read_graph(folder).graph_def
    ops = {node.op for node in graph.node}
    ops |= {node.op for function in graph.library.function for node in function.node_def}
    # Python runs this file when it starts; what it notes at the end is what the process had loaded.
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, json, sys\n"
        "def note():\n"
        "    loaded = sorted(name for name, module in sys.modules.items() if module)\n"
        "    registry = sys.modules['tensorflow.python.framework.op_def_registry']\n"
        f"    unknown = [op for op in {sorted(ops)} if registry.get(op) is None]\n"
        f"    with open({str(tmp_path / 'note.json')!r}, 'w') as file:\n"
        "        json.dump([loaded, unknown], file)\n"
        "atexit.register(note)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    copied = tmp_path / "elsewhere" / "1"
    shutil.copytree(folder, copied)
    settings = {"max_new_tokens": 20, "temperature": 0.7, "top_k": 50, "top_p": 0.9, "seed": 1}
    dtypes = {"temperature": "float32", "top_p": "float32"}
    answer = ask_in_other_process(
        copied,
        "serving_default",
        prompt=("string", PROMPTS[:1]),
        **{name: (dtypes.get(name, "int32"), [value]) for name, value in settings.items()},
    )
    assert answer["text"] == [gpt.generate(PROMPTS[0], **settings)]

    modules, unknown_ops = json.loads((tmp_path / "note.json").read_text())
    packages = {name.partition(".")[0] for name in modules}
    assert "tensorflow" in packages
    # TensorFlow itself imports keras.
    assert not packages & {"keras_gpt", "keras_nlp", "keras_hub", "tokenizers", "tensorflow_text"}
    assert unknown_ops == []
    assert not [op for op in ops if "PyFunc" in op]


def test_a_process_that_fails_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is made up."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="could not be asked in another process"):
        ask_in_other_process(folder, "generate_with_defaults", prompt=("string", ["a"]))


def test_the_graph_does_not_hold_the_vocabulary(
    folder: Path, read_graph: Callable[[Path], Any], words: Tokenizer
) -> None:
    """Tokens and merges are variables' values, beside the graph: no constant grows with them."""
    graph = read_graph(folder).graph_def
    nodes = [*graph.node, *[n for f in graph.library.function for n in f.node_def]]
    tensors = [node.attr["value"].tensor for node in nodes if node.op == "Const"]
    sizes = [math.prod(axis.size for axis in tensor.tensor_shape.dim) for tensor in tensors]
    assert len(sizes) > 100
    assert max(sizes) < words.vocab_size


def test_a_folder_is_not_overwritten_unasked(
    gpt: GPT, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the work; a failed replacement leaves the old one; a failed first one nothing."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="overwrite=True"):
        gpt.export(folder)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file stands there"):
        gpt.export(tmp_path / "file", overwrite=True)

    def fail(module: Any, path: str, **kwargs: Any) -> None:
        (Path(path) / "saved_model.pb").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        gpt.export(tmp_path / "new" / "1")
    with pytest.raises(OSError, match="No space left"):
        gpt.export(folder, overwrite=True)
    assert list((tmp_path / "new").iterdir()) == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_overwrite_replaces_the_whole_folder(make_gpt: Callable[..., GPT], tmp_path: Path) -> None:
    """The new model answers, and nothing of what was there is left."""
    target = tmp_path / "1"
    target.mkdir()
    (target / "old.txt").write_text("old")
    other = make_gpt(num_layers=1)
    other.export(target, overwrite=True)
    assert not (target / "old.txt").exists()
    ids = np.array([[5, 6, 7]], "int32")
    answer = tf.saved_model.load(str(target)).signatures["token_logits"](token_ids=tf.constant(ids))
    np.testing.assert_allclose(answer["logits"], other(ids), rtol=1e-5, atol=1e-4)
