"""GraphTokenizer inside a SavedModel, loaded where keras_gpt and tensorflow_text cannot be."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from keras_gpt.tokenizers import GraphTokenizer, Tokenizer
from keras_gpt.tokenizers.splits import Split

PROGRAM = """
import json, sys
for name in ("keras_gpt", "tensorflow_text", "keras", "tokenizers"):
    sys.modules[name] = None
import tensorflow as tf
def ask(folder, text):
    answers = []
    for _ in range(2):
        model = tf.saved_model.load(folder)
        for _ in range(2):
            answer = model.signatures["serving_default"](text=tf.constant(text, tf.string))
            answers.append([
                tf.RaggedTensor.from_tensor(answer["ids"], answer["lengths"]).to_list(),
                [one.decode() for one in answer["text"].numpy()],
            ])
    return answers
print(json.dumps([ask(*one) for one in json.load(sys.stdin)]))
"""


class ThereAndBack(tf.Module):
    """Gives the ids of text, and the text of these."""

    def __init__(self, tokenizer: GraphTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """Tokenize and detokenize."""
        ids = self.tokenizer.tokenize(text)
        lengths = ids.row_lengths()
        back = self.tokenizer.detokenize(ids.to_tensor(), lengths, skip_special=True)
        return {"ids": ids.to_tensor(), "lengths": lengths, "text": back}


def in_another_process(cases: list[tuple[Tokenizer, list[str], Path]]) -> list[Any]:
    """Save each tokenizer to its folder, and give what they all answer to their texts elsewhere."""
    for tokenizer, _, folder in cases:
        module = ThereAndBack(tokenizer.graph())
        tf.saved_model.save(module, str(folder), signatures=module.serve)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([[str(folder), several] for _, several, folder in cases]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def expected(tokenizer: Tokenizer, several: list[str]) -> list[Any]:
    """Loaded twice, and asked twice each time."""
    return [[tokenizer.encode_batch(several), several]] * 4


PLAIN = ["Hello", "", "old  红楼梦 🙂"]
SPLIT = ["a grasshopper, 12345\r\n\r\n", "", "IT'S ٣٤  红楼梦 🙂"]
SPLITS: tuple[Split, ...] = ("digits", "llama3", "qwen2")


@pytest.fixture(scope="module")
def split_tokenizers(small: Tokenizer) -> dict[str, Tokenizer]:
    """With a byte that has no token, and with a word that merges do not make."""
    vocabulary = {small.id_to_token(one): one for one in range(small.vocab_size)}
    vocabulary["Ġgrasshopper"] = vocabulary.pop("Ą")  # the byte 0x04
    return {
        split: Tokenizer(vocabulary, small.merges, split=split, ignore_merges=True)
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def answers(
    small: Tokenizer,
    characters: Tokenizer,
    split_tokenizers: dict[str, Tokenizer],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What every tokenizer answers, all in one process: TensorFlow takes seconds to start."""
    folder = tmp_path_factory.mktemp("saved")
    cases = {"small": (small, PLAIN), "characters": (characters, PLAIN)}
    cases |= {split: (tokenizer, SPLIT) for split, tokenizer in split_tokenizers.items()}
    got = in_another_process([(*case, folder / name) for name, case in cases.items()])
    return dict(zip(cases, got, strict=True))


@pytest.mark.parametrize("name", ["small", "characters"])
def test_a_saved_model_needs_none_of_our_code(
    name: str, answers: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    assert answers[name] == expected(request.getfixturevalue(name), PLAIN)


@pytest.mark.parametrize("split", SPLITS)
def test_other_splits_are_saved_too(
    split: str, answers: dict[str, Any], split_tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer = split_tokenizers[split]
    assert tokenizer.token_to_id("Ġgrasshopper") in tokenizer.encode(SPLIT[0])
    assert answers[split] == expected(tokenizer, SPLIT)


def test_gpt2_saved_is_small(gpt2: Tokenizer, tmp_path: Path) -> None:
    several = ["Hello world", "", "don't  红楼梦 🙂<|endoftext|>"]
    assert in_another_process([(gpt2, several, tmp_path)]) == [expected(gpt2, several)]
    assert (tmp_path / "saved_model.pb").stat().st_size < 1e6
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 3e6
    graph = tf.saved_model.load(str(tmp_path)).signatures["serving_default"].graph.as_graph_def()
    operations = {node.op for node in graph.node}
    operations |= {node.op for function in graph.library.function for node in function.node_def}
    assert "UnsortedSegmentMin" in operations
    # tensorflow-text's operations have names like "TFText>NgramsStringJoin".
    assert not {name for name in operations if "PyFunc" in name or ">" in name}


def test_it_can_be_saved_by_itself(small: Tokenizer, tmp_path: Path) -> None:
    tf.saved_model.save(small.graph(), str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    assert loaded.tokenize(tf.constant(["some words"])).to_list() == [small.encode("some words")]
