"""Tokenizer and settings of a Hugging Face folder: as its library reads them, and both ways."""

import json
from pathlib import Path
from typing import Any

import pytest
from gpt_cases import make_gpt, small_tokenizer

from keras_gpt import GPT
from keras_gpt.generation.options import read_stop_token_ids
from keras_gpt.generation_settings import GenerationSettings

TEXTS = ["a<|user|>b", "<|endoftext|> the <|user|>", "hello <|new|>", "plain"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = small_tokenizer()
    make_gpt(vocab_size=300, tokenizer=tokenizer).save_to_huggingface(tmp_path / "hf")
    return tmp_path / "hf"


def _edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def _as_old_files(folder: Path) -> None:
    """Put vocab.json and merges.txt in the place of tokenizer.json, as old folders have them."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")


def _decoder(size: int, **flags: Any) -> dict[str, Any]:
    names = ["<|user|>", "<|new|>"]
    return {
        str(size + place): {"content": name, "special": place == 0, "normalized": False, **flags}
        for place, name in enumerate(names)
    }


@pytest.mark.parametrize("form", ["added_tokens.json", "added_tokens_decoder"])
def test_tokens_that_other_files_add_are_found(folder: Path, form: str) -> None:
    """Special ones where that is asked for, the others in every text; as in the library."""
    size = small_tokenizer().vocab_size
    if form == "added_tokens.json":
        _as_old_files(folder)
        (folder / form).write_text(json.dumps({"<|user|>": size, "<|new|>": size + 1}))
        _edit(folder / "special_tokens_map.json", additional_special_tokens=["<|user|>"])
    else:
        _edit(folder / "tokenizer_config.json", added_tokens_decoder=_decoder(size))
    tokenizer = GPT.from_preset(folder).tokenizer
    assert tokenizer.vocab_size == size + 2
    assert tokenizer.encode("a<|user|>b", allow_special=True)[1] == size
    assert size not in tokenizer.encode("a<|user|>b")
    assert tokenizer.encode("a<|new|>b")[1] == size + 1
    assert tokenizer.decode([size, size + 1]) == "<|user|><|new|>"
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        want = theirs(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text, allow_special=True) == want, text


def test_what_such_files_must_not_say_is_named(folder: Path) -> None:
    """An id that is taken, a form that is none, and what would change every text."""
    size = small_tokenizer().vocab_size
    file = folder / "tokenizer_config.json"
    for changes, message in (
        ({"added_tokens_decoder": _decoder(3)}, "two ids.*Received: id 3"),
        ({"added_tokens_decoder": _decoder(size, lstrip=True)}, "lstrip"),
        ({"added_tokens_decoder": {"x": {}}}, "must name tokens by id"),
        ({"added_tokens_decoder": [1]}, "must be an object"),
        ({"added_tokens_decoder": {}, "add_prefix_space": True}, "add_prefix_space=True"),
    ):
        _edit(file, **changes)
        with pytest.raises(ValueError, match=message):
            GPT.from_preset(folder)


def test_a_model_that_is_meant_to_be_greedy_stays_so(folder: Path) -> None:
    """`do_sample: false` counts more than the temperature beside it, and our 0 returns as 0."""
    _edit(folder / "generation_config.json", do_sample=False, temperature=0.7, top_p=0.9)
    gpt = GPT.from_preset(folder)
    assert gpt.generation_settings.temperature == 0.0
    gpt.save_to_huggingface(folder, overwrite=True)
    assert GPT.from_preset(folder).generation_settings.temperature == 0.0


@pytest.mark.parametrize("stops", [(), None, (3,), (3, 5)])
def test_what_ends_an_answer_is_the_same_after_a_round_trip(
    tmp_path: Path, stops: tuple[int, ...] | None
) -> None:
    """A model that never stops too."""
    gpt = make_gpt(vocab_size=300, tokenizer=small_tokenizer())
    gpt.generation_settings = GenerationSettings(stop_token_ids=stops)
    gpt.save_to_huggingface(tmp_path / "hf")
    same = GPT.from_preset(tmp_path / "hf")
    assert read_stop_token_ids(same, None) == read_stop_token_ids(gpt, None)


def test_a_gguf_file_says_what_it_cannot_keep(tmp_path: Path) -> None:
    """That a model never stops, and an eos token that is not the first stop id."""
    tokenizer = small_tokenizer()
    gpt = make_gpt(vocab_size=300, tokenizer=tokenizer)
    gpt.generation_settings = GenerationSettings(stop_token_ids=())
    with pytest.warns(UserWarning, match="never stops"):
        gpt.save_to_gguf(tmp_path / "a.gguf")
    gpt.generation_settings = GenerationSettings(
        stop_token_ids=(3,), eos_token=tokenizer.id_to_token(4)
    )
    with pytest.warns(UserWarning, match="one place for eos_token"):
        gpt.save_to_gguf(tmp_path / "b.gguf")
