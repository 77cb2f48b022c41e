"""The tokenizer and the chat template of a gguf file, both ways."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from keras_gpt.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer

# llama.cpp's kinds of token.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_SPLITS = {
    "gpt-2": "gpt2",
    "default": "gpt2",
    "smollm": "digits",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "qwen2": "qwen2",
}
_NAMES = {"gpt2": "gpt-2", "digits": "smollm", "llama3": "llama-bpe", "qwen2": "qwen2"}


def read_tokenizer(fields: Mapping[str, Any]) -> "Tokenizer | None":
    """Make the tokenizer of a file; None where it has none.

    Raises:
        ValueError: it is of a kind that is not supported, or its lists do not fit together.
    """
    kind = fields.get("tokenizer.ggml.model")
    if kind in (None, "no_vocab", "none"):
        return None
    if kind != "gpt2":
        raise ValueError(
            "the file's tokenizer must be byte-level BPE ('gpt2'). Received: "
            f"tokenizer.ggml.model={kind!r}"
        )
    pre = fields.get("tokenizer.ggml.pre", "default")
    if pre not in _SPLITS:
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
    kinds = fields.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise ValueError(
            f"the file's tokenizer.ggml.token_type must have one entry for each of the {len(tokens)} "
            f"tokens. Received: {len(kinds) if isinstance(kinds, list) else kinds!r:.80}"
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
        ignore_merges=_SPLITS[pre] == "llama3",
        nfc=_SPLITS[pre] == "qwen2",
    )


def read_settings(fields: Mapping[str, Any], vocab_size: int) -> GenerationSettings:
    """Take the ids that end an answer, and the chat template."""
    tokens = fields.get("tokenizer.ggml.tokens")
    tokens = tokens if _strings(tokens) else []

    def find(name: str) -> int | None:
        value = fields.get(f"tokenizer.ggml.{name}_token_id")
        return value if isinstance(value, int) and 0 <= value < vocab_size else None

    def token(name: str) -> str | None:
        index = find(name)
        return tokens[index] if index is not None and index < len(tokens) else None

    ends = [end for end in (find("eos"), find("eot")) if end is not None]
    template = fields.get("tokenizer.chat_template")
    return GenerationSettings(
        stop_token_ids=tuple(dict.fromkeys(ends)) or None,
        chat_template=template if isinstance(template, str) else None,
        bos_token=token("bos"),
        eos_token=token("eos"),
        pad_token=token("padding"),
    )


def write_tokenizer(
    writer: Any, tokenizer: "Tokenizer | None", settings: GenerationSettings, vocab_size: int
) -> None:
    """Put tokenizer and chat template into a `gguf.GGUFWriter`.

    Raises:
        ValueError: the format has no such tokenizer.
    """
    if settings.chat_template is not None:
        writer.add_chat_template(settings.chat_template)
    if tokenizer is None:
        writer.add_tokenizer_model("no_vocab")
        return
    if tokenizer.level != "byte":
        raise ValueError(
            "the gguf format's tokenizers are byte-level, so this model cannot be kept in it. "
            f"Received: a tokenizer with level={tokenizer.level!r}"
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
    ends = settings.stop_token_ids
    if ends is None:
        ends = () if tokenizer.end_of_text_id is None else (tokenizer.end_of_text_id,)
    if ends:
        writer.add_eos_token_id(ends[0])
    if len(ends) > 1:
        writer.add_eot_token_id(ends[1])
    for token, add in (
        (settings.bos_token, writer.add_bos_token_id),
        (settings.pad_token, writer.add_pad_token_id),
    ):
        place = None if token is None else tokenizer.token_to_id(token)
        if place is not None:
            add(place)


def _strings(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
