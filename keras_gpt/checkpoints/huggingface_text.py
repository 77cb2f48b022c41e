"""What a folder of Hugging Face's library says about text: its tokenizer and how to generate."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_gpt.checkpoints.config_checks import naming
from keras_gpt.checkpoints.json_files import read_json
from keras_gpt.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer


def read_tokenizer(folder: Path, model_type: str) -> "Tokenizer | None":
    """Read a folder's tokenizer; None where it has none.

    Args:
        folder: holds `tokenizer.json`, or `vocab.json` and `merges.txt`; tokens that
            `tokenizer_config.json` or `added_tokens.json` add are added.
        model_type: "openai-gpt" has a tokenizer of another kind.

    Raises:
        FileNotFoundError: one of `vocab.json` and `merges.txt` is missing.
        ValueError: a file is damaged, or asks for something that is not supported.
    """
    from keras_gpt.tokenizers import Tokenizer

    config = _optional_json(folder / "tokenizer_config.json")
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    elif vocab.is_file() or merges.is_file():
        for file in (vocab, merges):
            if not file.is_file():
                raise FileNotFoundError(
                    f"the folder's tokenizer needs vocab.json and merges.txt. Received: no {file}"
                )
        is_gpt1 = model_type == "openai-gpt"
        tokenizer = Tokenizer.from_files(vocab, merges, level="gpt1" if is_gpt1 else "byte")
    else:
        return None
    if config.get("add_prefix_space"):
        raise ValueError(
            f"{folder / 'tokenizer_config.json'}: a space put before every text is not supported. "
            f"Received: add_prefix_space={config['add_prefix_space']!r}"
        )
    added = _added_tokens(folder, config)
    if not added:
        return tokenizer
    state = json.loads(tokenizer.to_json())
    known = {entry["content"] for entry in state["added_tokens"]}
    new = [entry for entry in added if entry["content"] not in known]
    state["added_tokens"] += sorted(new, key=lambda entry: entry["id"])
    if new:
        with naming(f"the tokens that are added in {folder}"):
            tokenizer = Tokenizer.from_json(json.dumps(state, ensure_ascii=False))
    return tokenizer


def _added_tokens(folder: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List what stands beside the tokenizer's own file, in the form of tokenizer.json."""
    listed = config.get("added_tokens_decoder") or {}
    file = folder / "tokenizer_config.json"
    entries = {}
    if not isinstance(listed, dict):
        raise ValueError(
            f"{file}: added_tokens_decoder must be an object. Received: {listed!r:.80}"
        )
    for number, entry in listed.items():
        content = entry.get("content") if isinstance(entry, dict) else None
        if not number.isdecimal() or not isinstance(content, str):
            raise ValueError(
                f"{file}: added_tokens_decoder must name tokens by id. Received: {number!r:.40}: "
                f"{entry!r:.80}"
            )
        entries[content] = {**entry, "id": int(number)}
    marked = _optional_json(folder / "special_tokens_map.json") | dict(config)
    more = marked.get("additional_special_tokens")
    values = [*marked.values(), *(more if isinstance(more, list) else [])]
    special = {_token(value) for value in values}
    for content, number in _optional_json(folder / "added_tokens.json").items():
        if not isinstance(number, int):
            raise ValueError(
                f"{folder / 'added_tokens.json'} must give each token an id. Received: "
                f"{content!r:.40}: {number!r:.80}"
            )
        entries.setdefault(
            content, {"id": number, "content": content, "special": content in special}
        )
    return list(entries.values())


def read_settings(folder: Path, config: Mapping[str, Any], vocab_size: int) -> GenerationSettings:
    """Read how a model is meant to be run.

    Args:
        folder: may hold `generation_config.json`, `special_tokens_map.json`,
            `tokenizer_config.json` and `chat_template.jinja`.
        config: the content of its `config.json`.
        vocab_size: the model's.

    Raises:
        ValueError: a file is damaged, or a setting is out of range.
    """
    generation = _optional_json(folder / "generation_config.json")
    tokens = _optional_json(folder / "special_tokens_map.json")
    tokens |= _optional_json(folder / "tokenizer_config.json")
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    # An explicit null is a model that never stops; without the field nothing is said.
    says_never = ends is None and "eos_token_id" in {**generation, **config}
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    # Small test models keep GPT-2's 50256 with a smaller vocabulary: an id that never comes.
    ends = [end for end in ends if isinstance(end, int) and 0 <= end < vocab_size]
    template = tokens.get("chat_template")
    if isinstance(template, list) and all(map(_is_named, template)):  # several by name
        named = {each.get("name"): each.get("template") for each in template}
        template = named.get("default")
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    # A temperature beside `do_sample: false` is not used by the library.
    greedy = generation.get("do_sample") is False
    return GenerationSettings(
        stop_token_ids=tuple(ends) if ends or says_never else None,
        temperature=0.0 if greedy else generation.get("temperature"),
        top_k=generation.get("top_k") or None,  # 0 is their "all"
        top_p=generation.get("top_p"),
        chat_template=template,
        bos_token=_token(tokens.get("bos_token")),
        eos_token=_token(tokens.get("eos_token")),
        pad_token=_token(tokens.get("pad_token")),
    )


def _is_named(template: Any) -> bool:
    return isinstance(template, dict) and isinstance(template.get("name"), str)


def _optional_json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _token(value: Any) -> str | None:
    """Take a token that is written as a string, or as an object with its content."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None
