"""The tokenizer and the chat template of a gguf file, both ways."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from keras_gpt.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer

# llama.cpp's kinds of token.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_SPLITS = {
    "gpt-2": "gpt2",
    "smollm": "digits",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "qwen2": "qwen2",
}
_NAMES = {"gpt2": "gpt-2", "digits": "smollm", "llama3": "llama-bpe", "qwen2": "qwen2"}
# The places for ids that end an answer.
_ENDS = ("eos", "eot", "eom")


def read_tokenizer(fields: Mapping[str, Any]) -> "Tokenizer | None":
    """Make the tokenizer of a file; None where it has none, or (with a warning) SentencePiece's.

    Raises:
        ValueError: it is of a kind that is not supported, or its lists do not fit together.
    """
    kind = fields.get("tokenizer.ggml.model")
    if kind in (None, "no_vocab", "none"):
        return None
    if kind == "llama":
        warnings.warn(
            "the file's tokenizer is SentencePiece's (tokenizer.ggml.model='llama'), which is not "
            "supported: the model comes without a tokenizer, and takes token ids",
            stacklevel=2,
        )
        return None
    if kind != "gpt2":
        raise ValueError(
            "the file's tokenizer must be byte-level BPE ('gpt2'). Received: "
            f"tokenizer.ggml.model={kind!r}"
        )
    pre = fields.get("tokenizer.ggml.pre")
    if pre is None and fields.get("general.architecture") == "gpt2":
        # From before the setting existed. llama.cpp's own "default" is yet another split.
        pre = "gpt-2"
    if not isinstance(pre, str) or pre not in _SPLITS:
        raise ValueError(
            f"the file's pre-tokenizer must be one of {sorted(_SPLITS)}. Received: "
            f"tokenizer.ggml.pre={pre!r}"
        )
    tokens, merges = fields.get("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.merges")
    if not _strings(tokens) or not _strings(merges):
        raise ValueError(
            "the file's tokenizer must have tokenizer.ggml.tokens and tokenizer.ggml.merges, lists "
            f"of strings. Received: {type(tokens).__name__} and {type(merges).__name__}"
        )
    kinds = fields.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        received = f"{len(kinds)} entries" if isinstance(kinds, list) else f"{kinds!r:.80}"
        raise ValueError(
            f"the file's tokenizer.ggml.token_type must have one entry for each of the {len(tokens)} "
            f"tokens. Received: {received}"
        )
    # Converters fill the vocabulary up to the matrix with tokens that nothing ever gives.
    used = len(tokens)
    while used and kinds[used - 1] == _UNUSED:
        used -= 1
    vocabulary = {token: index for index, token in enumerate(tokens[:used])}
    if len(vocabulary) != used:
        raise ValueError("the file's tokenizer.ggml.tokens must differ. Received: a token twice")
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise ValueError(
                f"each of tokenizer.ggml.merges must hold two tokens. Received: {merge!r:.80}"
            )
        pairs.append((left, right))
    from keras_gpt.tokenizers import Tokenizer

    return Tokenizer(
        vocabulary,
        pairs,
        special_tokens=[
            t for t, kind in zip(tokens[:used], kinds, strict=False) if kind == _CONTROL
        ],
        added_tokens=[
            t for t, kind in zip(tokens[:used], kinds, strict=False) if kind == _USER_DEFINED
        ],
        split=_SPLITS[pre],  # type: ignore[arg-type]
        **_implied(_SPLITS[pre]),  # type: ignore[arg-type]
    )


def read_settings(fields: Mapping[str, Any], vocab_size: int) -> GenerationSettings:
    """Take the ids that end an answer, the chat template, and what is suggested for sampling."""
    tokens = fields.get("tokenizer.ggml.tokens")
    tokens = tokens if _strings(tokens) else []

    def find(name: str) -> int | None:
        value = fields.get(f"tokenizer.ggml.{name}_token_id")
        return value if isinstance(value, int) and 0 <= value < vocab_size else None

    def token(name: str) -> str | None:
        index = find(name)
        return tokens[index] if index is not None and index < len(tokens) else None

    def suggested(name: str, kind: type[int] | type[float], most: int) -> Any:
        value = fields.get(f"general.sampling.{name}")
        # Some files say -1 where they suggest nothing.
        if not isinstance(value, kind) or isinstance(value, bool) or not 0 <= value <= most:
            return None
        return float(str(np.float32(value))) if kind is float else value

    ends = [end for end in map(find, _ENDS) if end is not None]
    template = fields.get("tokenizer.chat_template")
    return GenerationSettings(
        stop_token_ids=tuple(dict.fromkeys(ends)) or None,
        temperature=suggested("temp", float, 2**31),
        top_k=suggested("top_k", int, 2**31) or None,  # 0 is all
        top_p=suggested("top_p", float, 1) or None,
        chat_template=template if isinstance(template, str) else None,
        bos_token=token("bos"),
        eos_token=token("eos"),
        pad_token=token("padding"),
    )


def write_tokenizer(
    writer: Any, tokenizer: "Tokenizer | None", settings: GenerationSettings, vocab_size: int
) -> None:
    """Put tokenizer and settings into a `gguf.GGUFWriter`.

    Raises:
        ValueError: the format has no such tokenizer.
    """
    _write_settings(writer, tokenizer, settings)
    if tokenizer is None:
        writer.add_tokenizer_model("no_vocab")
        return
    if tokenizer.level != "byte":
        raise ValueError(
            "the gguf format's tokenizers are byte-level, so this model cannot be kept in it. "
            f"Received: a tokenizer with level={tokenizer.level!r}"
        )
    if not tokenizer.merges:
        raise ValueError(
            "the gguf format's tokenizers have merges, and its readers want one at least, so this "
            "model cannot be kept in it. Received: a tokenizer without merges"
        )
    for name, value in _implied(tokenizer.split).items():
        if getattr(tokenizer, name) != value:
            raise ValueError(
                f"the gguf format has split={tokenizer.split!r} only with {name}={value}, so this "
                f"tokenizer cannot be kept in it. Received: {name}={getattr(tokenizer, name)}"
            )
    special, added = set(tokenizer.special_tokens.values()), set(tokenizer.added_tokens.values())
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.vocab_size)]
    kinds = [
        _CONTROL if index in special else _USER_DEFINED if index in added else _NORMAL
        for index in range(len(tokens))
    ]
    for index in range(len(tokens), vocab_size):
        tokens.append(f"[PAD{index}]")
        kinds.append(_UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_NAMES[tokenizer.split])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.merges])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)


def _write_settings(
    writer: Any, tokenizer: "Tokenizer | None", settings: GenerationSettings
) -> None:
    if settings.chat_template is not None:
        writer.add_chat_template(settings.chat_template)
    if settings.temperature is not None:
        writer.add_float32("general.sampling.temp", settings.temperature)
    if settings.top_k is not None:
        writer.add_int32("general.sampling.top_k", min(settings.top_k, 2**31 - 1))
    if settings.top_p is not None:
        writer.add_float32("general.sampling.top_p", settings.top_p)

    def find(token: str | None) -> int | None:
        return None if token is None or tokenizer is None else tokenizer.token_to_id(token)

    eos = find(settings.eos_token)
    if settings.stop_token_ids == () and tokenizer is not None:
        warnings.warn(
            "the gguf format cannot say that a model never stops: its readers will stop at the end "
            "of text. Received: stop_token_ids=()",
            stacklevel=2,
        )
    if settings.stop_token_ids and eos is not None and eos not in settings.stop_token_ids:
        warnings.warn(
            "the gguf format has one place for eos_token and the first stop id; the stop id is kept. "
            f"Received: eos_token={settings.eos_token!r}, stop_token_ids={settings.stop_token_ids}",
            stacklevel=2,
        )
    if settings.stop_token_ids is not None:
        # The first place names eos_token.
        ends = sorted(dict.fromkeys(settings.stop_token_ids), key=lambda end: end != eos)
    else:
        end = None if tokenizer is None else tokenizer.end_of_text_id
        end = eos if end is None else end
        ends = [] if end is None else [end]
    if len(ends) > len(_ENDS):
        warnings.warn(
            f"the gguf format has places for {len(_ENDS)} stop ids; {ends[len(_ENDS) :]} of the "
            "model's stop_token_ids are left out",
            stacklevel=2,
        )
    places = [("bos", find(settings.bos_token)), ("padding", find(settings.pad_token))]
    for name, index in [*zip(_ENDS, ends, strict=False), *places]:
        if index is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", index)


def _implied(split: str) -> dict[str, bool]:
    """Give what a split of the format says about the rest of the tokenizer."""
    return {"ignore_merges": split == "llama3", "nfc": split == "qwen2"}


def _strings(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
