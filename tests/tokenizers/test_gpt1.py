"""GPT-1's tokenizer: ids and text are those of the `tokenizers` library and of transformers."""

import copy
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from unicode_text import batches

from keras_gpt.tokenizers import GraphTokenizer, Tokenizer, training


def definition(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """Build the library's tokenizer from the definition, without our code."""
    library = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=vocabulary, merges=merges, unk_token="<unk>", end_of_word_suffix="</w>"
        )
    )
    library.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.decoder = tokenizers.decoders.BPEDecoder(suffix="</w>")
    library.add_special_tokens(["<unk>"])
    return library


@pytest.fixture(scope="module")
def tiny(some_text: str) -> tuple[Tokenizer, Any]:
    """A small tokenizer of this kind, ours and the library's."""
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner = definition({"<unk>": 0}, [])
    learner.train_from_iterator([some_text], trainer)
    model = json.loads(learner.to_str())["model"]
    merges = [(left, right) for left, right in model["merges"]]
    return Tokenizer(model["vocab"], merges, level="gpt1"), definition(model["vocab"], merges)


@pytest.fixture(scope="module")
def files(shared_data: Path) -> tuple[Path, Path]:
    """OpenAI's files."""
    folder = shared_data / "bpe" / "gpt1"
    return folder / "encoder_bpe_40000.json", folder / "vocab_40000.bpe"


@pytest.fixture(scope="module")
def gpt1(files: tuple[Path, Path]) -> Tokenizer:
    """GPT-1's own tokenizer."""
    return Tokenizer.from_files(*files, level="gpt1")


def agree(ours: Tokenizer, library: Any, several: list[str]) -> None:
    """Check ids and text, whole and streamed, special tokens found and not."""
    several = [*several, *(f"{text}<unk> {text}" for text in several)]
    for allow in (False, True):
        library.encode_special_tokens = not allow
        expected = [one.ids for one in library.encode_batch(several, add_special_tokens=False)]
        assert ours.encode_batch(several, allow_special=allow) == expected
        for skip in (False, True):
            text = library.decode_batch(expected, skip_special_tokens=skip)
            assert ours.decode_batch(expected, skip_special=skip) == text
        for ids in expected:
            assert streamed(ours, ids) == ours.decode(ids)
            assert ours.decode_bytes(ids) == ours.decode(ids).encode("utf-8")


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Decode ids one at a time."""
    stream = tokenizer.stream_decoder()
    return "".join([*map(stream.push, ids), stream.finish()])


@given(several=batches)
def test_a_small_one_is_the_librarys(tiny: tuple[Tokenizer, Any], several: list[str]) -> None:
    agree(*tiny, several)


@given(ids=st.lists(st.integers(0, 499), max_size=12))
def test_any_ids_give_the_librarys_text(tiny: tuple[Tokenizer, Any], ids: list[int]) -> None:
    ours, library = tiny
    for skip in (False, True):
        expected = library.decode(ids, skip_special_tokens=skip)
        assert ours.decode(ids, skip_special=skip) == expected
    assert streamed(ours, ids) == ours.decode(ids)


def test_gpt1_is_gpt1(gpt1: Tokenizer) -> None:
    assert gpt1.vocab_size == 40478
    assert gpt1.level == "gpt1"
    assert gpt1.special_tokens == {"<unk>": 0}
    assert gpt1.end_of_text_id is None
    ids = gpt1.encode("  Hello\n World, it's   NAÏVE! 红")
    assert gpt1.decode(ids) == "hello world , it ' s naive ! <unk>"
    assert gpt1.decode(ids, skip_special=True) == "hello world , it ' s naive !"
    assert 0 not in gpt1.encode("<unk>")
    assert gpt1.encode("<unk>", allow_special=True) == [0]
    assert gpt1.encode("") == []


@given(several=batches)
@settings(max_examples=200)
def test_any_unicode(gpt1: Tokenizer, library: Any, several: list[str]) -> None:
    agree(gpt1, library, several)


@pytest.fixture(scope="module")
def library(files: tuple[Path, Path]) -> Any:
    """The library's, with OpenAI's files."""
    vocab, merges = files
    lines = merges.read_text(encoding="utf-8").split("\n")[1:]
    pairs = [(left, right) for left, right in (line.split(" ") for line in lines if line)]
    return definition(json.loads(vocab.read_text(encoding="utf-8")), pairs)


@pytest.fixture(scope="module")
def peer(files: tuple[Path, Path]) -> Any:
    """The tokenizer of transformers, with OpenAI's files."""
    transformers = pytest.importorskip("transformers", reason="the extra parity is not installed")
    vocab, merges = files
    lines = merges.read_text(encoding="utf-8").split("\n")[1:]
    return transformers.OpenAIGPTTokenizer(
        vocab=json.loads(vocab.read_text(encoding="utf-8")),
        merges=[tuple(line.split(" ")) for line in lines if line],
    )


@given(several=batches)
def test_a_file_that_is_read_in_pieces_gives_the_same_ids(
    gpt1: Tokenizer, several: list[str]
) -> None:
    text = "a，1 ".join(several)
    cuts = [0, *(match.start() for match in training._CUT.finditer(text)), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(cuts)]
    assert [*itertools.chain(*gpt1.encode_batch(pieces))] == gpt1.encode(text)


@given(several=batches)
@settings(max_examples=100)
def test_transformers_gives_the_same(gpt1: Tokenizer, peer: Any, several: list[str]) -> None:
    ids = gpt1.encode_batch(several, allow_special=True)
    assert ids == [peer(text)["input_ids"] for text in several]
    for skip in (False, True):
        text = [peer.decode(row, skip_special_tokens=skip) for row in ids]
        assert gpt1.decode_batch(ids, skip_special=skip) == text


def test_real_text_as_transformers_has_it(gpt1: Tokenizer, peer: Any, some_text: str) -> None:
    ids = gpt1.encode(some_text)
    assert ids == peer(some_text)["input_ids"]
    assert gpt1.decode(ids) == peer.decode(ids)


def test_the_file_that_transformers_writes_is_read(
    gpt1: Tokenizer, peer: Any, tmp_path: Path
) -> None:
    peer.save_pretrained(tmp_path)
    assert Tokenizer.from_file(tmp_path / "tokenizer.json") == gpt1


def test_transformers_reads_what_we_write(gpt1: Tokenizer, tmp_path: Path, some_text: str) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra parity is not installed")
    gpt1.save(tmp_path)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    ids = fast(some_text)["input_ids"]
    assert ids == gpt1.encode(some_text)
    assert fast.decode(ids) == gpt1.decode(ids)


@given(several=batches)
def test_it_is_kept(tiny: tuple[Tokenizer, Any], several: list[str]) -> None:
    ours, _ = tiny
    library = tokenizers.Tokenizer.from_str(ours.to_json())
    agree(ours, library, several)


def test_json_config_pickle_and_copy(tiny: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    ours, _ = tiny
    ours.save(tmp_path)
    for other in (
        Tokenizer.load(tmp_path),
        Tokenizer.from_config(json.loads(json.dumps(ours.get_config()))),
        pickle.loads(pickle.dumps(ours)),
        copy.deepcopy(ours),
    ):
        assert other == ours
        assert other.level == "gpt1"
        assert other.encode("Hello, World") == ours.encode("Hello, World")


def test_there_is_no_graph(tiny: tuple[Tokenizer, Any]) -> None:
    with pytest.raises(ValueError, match='Received: a tokenizer with level="gpt1"'):
        GraphTokenizer(tiny[0])
    with pytest.raises(ValueError, match='level="gpt1"'):
        tiny[0].graph()


def test_the_parts_must_fit_together() -> None:
    vocabulary = {"<unk>": 0, "a": 1, "a</w>": 2}
    assert Tokenizer(vocabulary, level="gpt1").encode("A z") == [2, 0]
    assert Tokenizer({"a</w>": 0}, level="gpt1").special_tokens == {"<unk>": 1}
    with pytest.raises(ValueError, match="must have the special token '<unk>'"):
        Tokenizer(vocabulary, special_tokens=["<s>"], level="gpt1")
    with pytest.raises(ValueError, match="token='a</w>a</w>'"):
        Tokenizer(vocabulary | {"a</w>a</w>": 3}, level="gpt1")
    with pytest.raises(ValueError, match="token='b '"):
        Tokenizer(vocabulary | {"b ": 3}, level="gpt1")
    with pytest.raises(ValueError, match="token='<s></w>'"):
        Tokenizer(vocabulary, special_tokens=["<unk>", "<s></w>"], level="gpt1")
    with pytest.raises(ValueError, match=r"merges\[0\]='a' 'b'"):
        Tokenizer(vocabulary, [("a", "b")], level="gpt1")
    with pytest.raises(ValueError, match="another split"):
        Tokenizer(vocabulary, level="gpt1", split="digits")
