"""tokenizer.json, the file format of the `tokenizers` library."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from keras_gpt.tokenizers.byte_alphabet import byte_characters
from keras_gpt.tokenizers.checks import Level
from keras_gpt.tokenizers.engines import END_OF_WORD, UNKNOWN
from keras_gpt.tokenizers.parts import Parts
from keras_gpt.tokenizers.splits import Split, byte_level_json, recognised_split, split_json
from keras_gpt.tokenizers.vocabulary_files import parse_json

# GPT-1's, as transformers writes them.
_BERT_NORMALIZER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}
_BERT_PRE_TOKENIZER = {"type": "BertPreTokenizer"}
_WORD_DECODER = {"type": "BPEDecoder", "suffix": END_OF_WORD}


def to_tokenizer_json(parts: Parts) -> str:
    """Write a tokenizer in the `tokenizers` library's JSON format.

    Args:
        parts: the tokenizer.

    Returns:
        JSON text; equal tokenizers give equal text.
    """
    normalizer: dict[str, Any] | None = {"type": "NFC"} if parts.nfc else None
    pre_tokenizer: dict[str, Any] | None = None
    decoder: dict[str, Any] = {"type": "Fuse"}
    if parts.level == "byte":
        pre_tokenizer, decoder = split_json(parts.split), byte_level_json()
    elif parts.level == "gpt1":
        normalizer, pre_tokenizer = _BERT_NORMALIZER, _BERT_PRE_TOKENIZER
        decoder = _WORD_DECODER
    by_id = dict(sorted(parts.vocabulary.items(), key=lambda item: item[1]))
    literal = sorted([*parts.special_tokens, *parts.added_tokens], key=by_id.__getitem__)
    special = set(parts.special_tokens)
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": by_id[token],
                    "content": token,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": token in special,
                }
                for token in literal
            ],
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": None,
            "decoder": decoder,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": UNKNOWN if parts.level == "gpt1" else None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": END_OF_WORD if parts.level == "gpt1" else None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": parts.ignore_merges,
                "vocab": by_id,
                "merges": [list(pair) for pair in parts.merges],
            },
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def from_tokenizer_json(text: str, source: str = "the tokenizer's JSON") -> Parts:
    """Read a tokenizer from the `tokenizers` library's JSON format.

    Truncation, padding and the post-processors that add special tokens are settings of whoever
    wrote the file and are not taken over.

    Args:
        text: the JSON text.
        source: what to call it in messages.

    Returns:
        The tokenizer.

    Raises:
        ValueError: it is not such JSON, or it asks for something that is not supported.
    """
    state = parse_json(text, source)
    model = state.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise ValueError(f"{source} must have a model with a vocab, as a tokenizer.json has")
    merges = [_merge_pair(merge, source) for merge in _list(model, "merges", source)]
    level, split = _kind(state, merges, source)
    _check_model(model, level, source)
    normalized = state.get("normalizer") is not None
    vocabulary = dict(model["vocab"])
    special: list[str] = []
    added: list[str] = []
    next_id = len(vocabulary)
    for entry in _list(state, "added_tokens", source):
        token, token_id = _added_token(entry, normalized, source)
        # The library numbers a token that the model lacks itself, whatever the file says.
        if (due := vocabulary.setdefault(token, next_id)) != token_id:
            raise ValueError(
                f"{source} gives the added token {token!r} two ids: its place in the file stands "
                f"for {due}. Received: id {token_id}"
            )
        next_id = max(next_id, token_id + 1)
        (special if entry.get("special", False) else added).append(token)
    _fill_gaps(vocabulary, source)
    return Parts(
        vocabulary,
        merges,
        special,
        level,
        split,
        ignore_merges=bool(model.get("ignore_merges")),
        nfc=level == "byte" and normalized,
        added_tokens=added,
    )


def _list(part: Mapping[str, Any], name: str, source: str) -> list[Any]:
    found = part.get(name) or []
    if not isinstance(found, list):
        raise ValueError(f"{source}: {name} must be a list. Received: {name}={found!r:.80}")
    return found


def _added_token(entry: Any, normalized: bool, source: str) -> tuple[str, int]:
    """Read an entry of added_tokens, or say what in it is not supported."""
    content = entry.get("content") if isinstance(entry, dict) else None
    if not isinstance(content, str) or not isinstance(entry.get("id"), int):
        raise ValueError(
            f"{source}: an added token must have a content and an id. Received: {entry!r:.80}"
        )
    odd = [flag for flag in ("single_word", "lstrip", "rstrip") if entry.get(flag)]
    # The library looks for normalized tokens after the others and in normalized text. Where
    # nothing is normalized and all are special, that comes to the same.
    if entry.get("normalized", False) and (normalized or not entry.get("special", False)):
        odd.append("normalized")
    if odd:
        raise ValueError(
            f"{source}: an added token that is {', '.join(odd)} is not supported. "
            f"Received: added token {content!r}"
        )
    return content, entry["id"]


def _fill_gaps(vocabulary: dict[str, int], source: str) -> None:
    """Give ids that no token has a placeholder, which no merge makes."""
    used = {token_id for token_id in vocabulary.values() if isinstance(token_id, int)}
    size = max(used, default=-1) + 1
    if size > 2 * len(used):
        raise ValueError(
            f"{source} must use most ids from 0 to the highest. "
            f"Received: {len(used)} tokens with ids up to {size - 1}"
        )
    if size == len(used):
        return
    for token_id in range(size):
        if token_id not in used:
            token = f"<|unused_{token_id}|>"
            if token in vocabulary:
                raise ValueError(
                    f"{source}: no token has the id {token_id}, and its placeholder {token!r} is "
                    f"a token already. Received: id {vocabulary[token]} for {token!r}"
                )
            vocabulary[token] = token_id


def _merge_pair(merge: Any, source: str) -> tuple[str, str]:
    """Read a merge in either form: "a b", or ["a", "b"] (since tokenizers 0.20)."""
    pair: Sequence[Any] = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(t, str) for t in pair):
        raise ValueError(f"{source}: a merge must hold two tokens. Received: {merge!r:.80}")
    return pair[0], pair[1]


def _kind(state: dict[str, Any], merges: list[tuple[str, str]], source: str) -> tuple[Level, Split]:
    """Find out which level and split the file describes, or say what in it is not supported."""
    normalizer, pre_tokenizer = state.get("normalizer"), state.get("pre_tokenizer")
    decoder = state.get("decoder")

    def refuse(what: str, name: str) -> NoReturn:
        raise ValueError(
            f"{source}: {what} is not supported; byte-level byte-pair encoding with the splits "
            "gpt2, digits, llama3 and qwen2 is, and GPT-1's, and the character level. "
            f"Received: {name}={state.get(name)!r:.300}"
        )

    for step in _steps(state.get("post_processor"), "processors"):
        if _type(step) not in (None, "ByteLevel", "TemplateProcessing"):
            refuse(f"the post-processor {_type(step)}", "post_processor")
    if _type(normalizer) == "BertNormalizer" and pre_tokenizer == _BERT_PRE_TOKENIZER:
        # Lower case strips accents unless the file says that it must not.
        if normalizer not in (_BERT_NORMALIZER, _BERT_NORMALIZER | {"strip_accents": True}):
            refuse("a BertNormalizer other than GPT-1's", "normalizer")
        if decoder != _WORD_DECODER:
            refuse(f"the decoder {_type(decoder)} with GPT-1's pre-tokenizer", "decoder")
        return "gpt1", "gpt2"
    if _type(normalizer) not in (None, "NFC"):
        refuse(f"the normalizer {_type(normalizer)}", "normalizer")
    if pre_tokenizer is None and _type(decoder) == "Fuse" and not merges and normalizer is None:
        return "character", "gpt2"
    split = recognised_split(pre_tokenizer)
    if split is None:
        refuse(_what_is_unknown(pre_tokenizer), "pre_tokenizer")
    if _type(decoder) != "ByteLevel":
        refuse(f"the decoder {_type(decoder)}", "decoder")
    return "byte", split


def _what_is_unknown(pre_tokenizer: Any) -> str:
    """Name what keeps a pre-tokenizer from being one of ours."""
    for step in _steps(pre_tokenizer, "pretokenizers"):
        if _type(step) not in ("ByteLevel", "Digits", "Split"):
            return f"the pre-tokenizer {_type(step)}"
        if _type(step) == "ByteLevel" and step.get("add_prefix_space", True):
            return "a space put before the text (add_prefix_space)"
    names = [_type(step) for step in _steps(pre_tokenizer, "pretokenizers")]
    if names == ["ByteLevel"]:
        return "byte level without a pattern (use_regex=false)"
    return f"this use of the pre-tokenizers {', '.join(map(str, names))}"


def _steps(part: Any, name: str) -> list[Any]:
    """List the steps of a Sequence, or the one step that a part is."""
    steps = part.get(name) if _type(part) == "Sequence" else None
    return list(steps) if isinstance(steps, Sequence) else [part]


def _type(part: Any) -> Any:
    if isinstance(part, Mapping):
        return part.get("type")
    return None if part is None else f"of type {type(part).__name__}"


def _check_model(model: dict[str, Any], level: Level, source: str) -> None:
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise ValueError(f"{source}: the model must be BPE. Received: model type={kind!r}")
    expected: dict[str, Any] = {"dropout": None, "continuing_subword_prefix": None}
    expected["end_of_word_suffix"] = END_OF_WORD if level == "gpt1" else None
    if level == "gpt1":
        expected |= {"unk_token": UNKNOWN, "fuse_unk": None, "byte_fallback": None}
    if level != "byte":
        expected["ignore_merges"] = None
    elif model.get("unk_token") and not all(one in model["vocab"] for one in byte_characters()):
        raise ValueError(
            f"{source}: an unk_token for bytes that have no token is not supported. "
            f"Received: unk_token={model['unk_token']!r}"
        )
    for option, value in expected.items():
        if (model.get(option) or None) != value:
            raise ValueError(
                f"{source}: the model's {option} is not supported unless it is {value!r}. "
                f"Received: {option}={model.get(option)!r}"
            )
