"""The levels of tokenizer: bytes merged into tokens, single characters, and GPT-1's words.

All know ordinary text only; special tokens are the business of `Tokenizer`.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from keras_gpt.tokenizers.byte_alphabet import byte_characters, token_to_bytes
from keras_gpt.tokenizers.checks import Level
from keras_gpt.tokenizers.parts import Parts
from keras_gpt.tokenizers.splits import Split, library_pre_tokenizer

UNKNOWN = "<unk>"
END_OF_WORD = "</w>"


class Engine(Protocol):
    """What `Tokenizer` needs of a level."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn each text into ids."""


def bytes_of_tokens(level: Level) -> Callable[[str], bytes]:
    """Give the function that turns an ordinary token into the bytes that it stands for.

    Args:
        level: the tokenizer's level.

    Returns:
        A function from token to bytes. GPT-1's "</w>" stands for a space, which is left out at
        the end of a text.
    """
    if level == "byte":
        return token_to_bytes
    if level == "gpt1":
        return lambda token: token.replace(END_OF_WORD, " ").encode("utf-8")
    return lambda token: token.encode("utf-8")


def make_engine(parts: Parts) -> Engine:
    """Make the engine for a tokenizer.

    Args:
        parts: the tokenizer; all its special and added tokens have ids.

    Returns:
        The engine.

    Raises:
        ValueError: the parts do not fit together.
    """
    if parts.level == "gpt1":
        return Gpt1Engine(parts.vocabulary, parts.merges, parts.special_tokens)
    literal = {*parts.special_tokens, *parts.added_tokens}
    ordinary = {token: id_ for token, id_ in parts.vocabulary.items() if token not in literal}
    if parts.level == "byte":
        return ByteLevelEngine(ordinary, parts.merges, parts.split, parts.ignore_merges, parts.nfc)
    if parts.merges:
        raise ValueError(
            f"a character tokenizer has no merges. Received: {len(parts.merges)} merges"
        )
    return CharacterEngine(ordinary)


class ByteLevelEngine:
    """Byte-level byte-pair encoding as GPT-2 has it, done by the `tokenizers` library.

    Args:
        vocabulary: token in the byte alphabet -> id, without special tokens.
        merges: pairs of tokens, first merge first.
        split: how text is cut into words.
        ignore_merges: whether a word that is a token becomes it whatever the merges say.
        nfc: whether text is first normalized to NFC.

    Raises:
        ValueError: a printable ASCII character has no token, or a merge names a token that does
            not exist.
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        merges: Sequence[tuple[str, str]],
        split: Split,
        ignore_merges: bool,
        nfc: bool,
    ) -> None:
        # Vocabularies that were trained without the whole alphabet lack bytes that their text
        # never had (SmolLM2's lacks 21). One that lacks a letter is no byte-level vocabulary.
        for byte in range(0x20, 0x7F):
            if byte_characters()[byte] not in vocabulary:
                raise ValueError(
                    "the vocabulary of a byte-level tokenizer must have a token for each "
                    f"printable ASCII character. Missing: byte 0x{byte:02x}, "
                    f"written {byte_characters()[byte]!r}"
                )
        _check_merges(vocabulary, merges)
        self._vocabulary = vocabulary
        self._merges = merges
        self._split: Split = split
        self._ignore_merges = ignore_merges
        self._nfc = nfc
        self._library: Any = None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn each text into ids, in parallel; bytes that have no token are left out."""
        if self._library is None:
            self._library = self._load_library()
        return _library_ids(self._library, texts)

    def _load_library(self) -> Any:
        from tokenizers import Tokenizer, models, normalizers

        library = Tokenizer(
            models.BPE(
                vocab=self._vocabulary,
                merges=list(self._merges),
                ignore_merges=self._ignore_merges,
            )
        )
        library.pre_tokenizer = library_pre_tokenizer(self._split)
        if self._nfc:
            library.normalizer = normalizers.NFC()
        return library


class Gpt1Engine:
    """GPT-1's byte-pair encoding of lower-case words, done by the `tokenizers` library.

    Text is cleaned as transformers 5 does it: control characters and accents go, letters become
    lower case, blank space and punctuation part words. The last token of a word ends in "</w>",
    which stands for a space. Characters that have no token become `<unk>`. (OpenAI's own program
    cleaned with ftfy and spaCy, which part some words otherwise: "do" and "n't".)

    Args:
        vocabulary: token -> id, special tokens included.
        merges: pairs of tokens, first merge first.
        special: the special tokens.

    Raises:
        ValueError: `<unk>` is no special token, a token has "</w>" or a space where it cannot
            stand, or a merge names a token that does not exist.
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        merges: Sequence[tuple[str, str]],
        special: Collection[str],
    ) -> None:
        if UNKNOWN not in special:
            raise ValueError(
                f'a level="gpt1" tokenizer must have the special token {UNKNOWN!r}. '
                f"Received: special_tokens={list(special)}"
            )
        for token in vocabulary:
            # So that a space at the end of a text can only come from "</w>".
            body = token if token in special else token.removesuffix(END_OF_WORD)
            if END_OF_WORD in body or body.endswith(" "):
                raise ValueError(
                    f'a token of a level="gpt1" tokenizer may have {END_OF_WORD!r} at its end '
                    "only (a special token nowhere), and no space at its end. "
                    f"Received: token={token!r}"
                )
        _check_merges(vocabulary, merges)
        self._vocabulary = vocabulary
        self._merges = merges
        self._library: Any = None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn each text into ids, in parallel."""
        if self._library is None:
            self._library = self._load_library()
        return _library_ids(self._library, texts)

    def _load_library(self) -> Any:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        library = Tokenizer(
            models.BPE(
                vocab=self._vocabulary,
                merges=list(self._merges),
                unk_token=UNKNOWN,
                end_of_word_suffix=END_OF_WORD,
            )
        )
        library.normalizer = normalizers.BertNormalizer(lowercase=True)
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return library


class CharacterEngine:
    """One id per character.

    Args:
        vocabulary: character -> id, without special tokens.

    Raises:
        ValueError: a token is not one character.
    """

    def __init__(self, vocabulary: dict[str, int]) -> None:
        for token in vocabulary:
            if len(token) != 1:
                raise ValueError(
                    "each token of a character tokenizer must be one character. "
                    f"Received: token={token!r}"
                )
        self._vocabulary = vocabulary

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn each text into ids."""
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> list[int]:
        try:
            return [self._vocabulary[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise ValueError(
                "the text has a character that the character tokenizer was not trained on: "
                f"{character!r} (U+{ord(character):04X}) at position {text.index(character)}. "
                f"Received: text={text!r:.80}"
            ) from None


def _library_ids(library: Any, texts: Sequence[str]) -> list[list[int]]:
    # The "fast" call does not compute character offsets, which nobody reads here.
    return [one.ids for one in library.encode_batch_fast(texts, add_special_tokens=False)]


def _check_merges(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
    for index, (left, right) in enumerate(merges):
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise ValueError(
                    "each merge must join two tokens of the vocabulary into a third. "
                    f"Received: merges[{index}]={left!r} {right!r}, and {token!r} is no token"
                )
