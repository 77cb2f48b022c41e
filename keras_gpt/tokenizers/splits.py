r"""How a byte-level tokenizer cuts text into words before it merges bytes.

- "gpt2": GPT-2's pattern (Radford et al. 2019, the released encoder).
- "digits": each digit of any script is a word; GPT-2's pattern cuts what lies between them
  (SmolLM2 has this, and others that were trained with the `tokenizers` library).
- "llama3" and "qwen2": the patterns that these models' tokenizer.json files hold. One character
  before letters belongs to their word, line ends go with what is before them, and digits come in
  groups of three, or one by one.
"""

from typing import Any, Literal, get_args

Split = Literal["gpt2", "digits", "llama3", "qwen2"]
SPLITS: tuple[Split, ...] = get_args(Split)

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS: dict[str, str] = {
    "llama3": _ENDINGS + r"\p{N}{1,3}" + _OTHERS,
    "qwen2": _ENDINGS + r"\p{N}" + _OTHERS,
}


def checked_split(split: Split, level: str) -> Split:
    """Check the split of a tokenizer.

    Args:
        split: "gpt2", "digits", "llama3" or "qwen2".
        level: the tokenizer's level; only the byte level has other splits than "gpt2".

    Returns:
        The split.

    Raises:
        ValueError: it is something else, or the level does not have it.
    """
    if split not in SPLITS:
        known = ", ".join(f'"{name}"' for name in SPLITS)
        raise ValueError(f"split must be one of {known}. Received: split={split!r}")
    if level != "byte" and split != "gpt2":
        raise ValueError(
            f'only level="byte" has another split than "gpt2". '
            f"Received: level={level!r}, split={split!r}"
        )
    return split


def byte_level_json() -> dict[str, Any]:
    """Give the `tokenizers` library's JSON for GPT-2's split, which is also that of its decoder."""
    return dict(_BYTE_LEVEL)


def split_json(split: Split) -> dict[str, Any]:
    """Write a split as the `tokenizers` library writes a pre-tokenizer.

    Args:
        split: the split.

    Returns:
        What stands at "pre_tokenizer" in a tokenizer.json.
    """
    if split == "gpt2":
        return byte_level_json()
    if split == "digits":
        steps = [{"type": "Digits", "individual_digits": True}, byte_level_json()]
    else:
        pattern = {
            "type": "Split",
            "pattern": {"Regex": _PATTERNS[split]},
            "behavior": "Isolated",
            "invert": False,
        }
        steps = [pattern, byte_level_json() | {"use_regex": False}]
    return {"type": "Sequence", "pretokenizers": steps}


def recognised_split(pre_tokenizer: Any) -> Split | None:
    """Find the split that a tokenizer.json asks for.

    Args:
        pre_tokenizer: what stands at "pre_tokenizer".

    Returns:
        The split, or None if it is none of ours.
    """
    wanted = _plain(pre_tokenizer)
    return next((split for split in SPLITS if _plain(split_json(split)) == wanted), None)


def library_pre_tokenizer(split: Split) -> Any:
    """Make the `tokenizers` library's pre-tokenizer.

    Args:
        split: the split.

    Returns:
        A `tokenizers.pre_tokenizers.PreTokenizer`.
    """
    from tokenizers import Regex, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split not in _PATTERNS)
    if split == "gpt2":
        return byte_level
    first: Any
    if split == "digits":
        first = pre_tokenizers.Digits(individual_digits=True)
    else:
        first = pre_tokenizers.Split(Regex(_PATTERNS[split]), "isolated")
    return pre_tokenizers.Sequence([first, byte_level])


def _plain(step: Any) -> Any:
    """Leave out what has no effect on ids, and write down what the library takes for granted."""
    steps = step.get("pretokenizers") if isinstance(step, dict) else None
    if isinstance(steps, list) and step.get("type") == "Sequence":
        return [_plain_step(one) for one in steps]  # no split of ours has a sequence in a sequence
    return _plain_step(step)


def _plain_step(step: Any) -> Any:
    if not isinstance(step, dict) or step.get("type") != "ByteLevel":
        return step
    return {"use_regex": True, **{n: value for n, value in step.items() if n != "trim_offsets"}}
