"""The tokenizer: text to token ids and back."""

import functools
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from keras_gpt.files import whole_file
from keras_gpt.tokenizers import tokenizer_json, training, vocabulary_files
from keras_gpt.tokenizers.checks import (
    Level,
    check_byte_level_only,
    check_text,
    checked_level,
    checked_special_tokens,
)
from keras_gpt.tokenizers.engines import UNKNOWN, Engine, bytes_of_tokens, make_engine
from keras_gpt.tokenizers.found_tokens import with_found_tokens
from keras_gpt.tokenizers.parts import Parts
from keras_gpt.tokenizers.splits import Split, checked_split
from keras_gpt.tokenizers.vocabulary import END_OF_TEXT, Vocabulary

if TYPE_CHECKING:
    from keras_gpt.tokenizers.graph import GraphTokenizer

FILE_NAME = "tokenizer.json"


@keras.saving.register_keras_serializable("keras_gpt")
class Tokenizer(Vocabulary):
    """Byte-level byte-pair encoding, GPT-1's lower-case words, or one id per character.

    Byte-level encoding takes any text and gives it back exactly: `decode(encode(x)) == x` for
    every valid Unicode string, if the vocabulary has all 256 bytes (those that it lacks are left
    out, as in the `tokenizers` library) and `nfc` is not set. No space is put in front. The same
    tokenizer exists as TensorFlow graph operations, see `graph`. GPT-1's level gives clean
    lower-case text back, with a space between words and punctuation.

    `encode` never adds special tokens. A tokenizer does not change after it is made. Usually it
    is made by `train`, `from_files`, `from_file` or `load`.

    Args:
        vocabulary: token -> id; the ids are 0..n-1. Byte-level tokens are written in GPT-2's
            byte alphabet ("Ġthe"), GPT-1's with "</w>" where a word ends, special and added
            tokens as they are.
        merges: pairs of tokens, first merge first; empty for the character level.
        special_tokens: tokens that only `allow_special=True` finds in text. One that the
            vocabulary lacks gets the next free id. None is `<unk>` for GPT-1's level, which must
            have it, and `<|endoftext|>` for the others.
        level: "byte", "character", or "gpt1".
        split: how the byte level cuts text into words: "gpt2", "digits" (as GPT-2, and each digit
            is a word: SmolLM2), "llama3" or "qwen2".
        ignore_merges: whether a word that is a token becomes it whatever the merges say
            (Llama 3); the byte level only.
        nfc: whether text is normalized to NFC before it is encoded (Qwen 2); the byte level only.
        added_tokens: tokens that are found in every text but are not special: `decode` with
            `skip_special` keeps them. One that the vocabulary lacks gets the next free id.

    Raises:
        ValueError: the parts do not fit together.

    Example:
        >>> tokenizer = Tokenizer.train(["a.txt", "b.txt"], vocab_size=8192)
        >>> tokenizer.decode(tokenizer.encode("Once upon a time"))
        'Once upon a time'

    Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", 2.2.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Iterable[tuple[str, str]] = (),
        special_tokens: Iterable[str] | None = None,
        level: Level = "byte",
        split: Split = "gpt2",
        *,
        ignore_merges: bool = False,
        nfc: bool = False,
        added_tokens: Iterable[str] = (),
    ) -> None:
        self._level: Level = checked_level(level)
        self._split: Split = checked_split(split, level)
        self._merges = [(left, right) for left, right in merges]
        check_byte_level_only(level, ignore_merges=ignore_merges, nfc=nfc)
        self._ignore_merges, self._nfc = bool(ignore_merges), bool(nfc)
        if special_tokens is None:
            special_tokens = (UNKNOWN,) if level == "gpt1" else (END_OF_TEXT,)
        special = checked_special_tokens(special_tokens)
        added = checked_special_tokens(added_tokens, "added_tokens", others=special)
        super().__init__(vocabulary, special, bytes_of_tokens(level), added, level == "gpt1")
        self._engine = make_engine(self._parts())
        self._without_special = with_found_tokens(self._engine, self._added)
        self._with_special = with_found_tokens(self._engine, self._special | self._added)

    # Making, keeping

    @classmethod
    def train(
        cls,
        files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        vocab_size: int | None = 8192,
        *,
        level: Level = "byte",
        special_tokens: Iterable[str] = (END_OF_TEXT,),
    ) -> "Tokenizer":
        """Train a tokenizer on text files.

        Args:
            files: paths of UTF-8 text files, in any language. They are read piece by piece.
            vocab_size: the number of ids wanted, special tokens included. Little text may give
                fewer. The character level has as many as there are characters, and ignores it.
            level: "byte" for byte-pair encoding, "character" for one id per character.
            special_tokens: tokens that stand for no text; they get the last ids.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: a file does not exist.
            ValueError: a file is not UTF-8, all files are empty, or `vocab_size` is too small.

        Example:
            >>> Tokenizer.train("红楼梦.txt", vocab_size=4096).vocab_size
            4096
        """
        pieces = training.read_pieces(training.checked_files(files))
        return cls.train_from_texts(pieces, vocab_size, level=level, special_tokens=special_tokens)

    @classmethod
    def train_from_texts(
        cls,
        texts: Iterable[str],
        vocab_size: int | None = 8192,
        *,
        level: Level = "byte",
        special_tokens: Iterable[str] = (END_OF_TEXT,),
    ) -> "Tokenizer":
        """Train a tokenizer on strings.

        Args:
            texts: an iterable of strings, read once.
            vocab_size: as for `train`.
            level: as for `train`.
            special_tokens: as for `train`.

        Returns:
            The tokenizer.

        Raises:
            TypeError: `texts` is one string, or something in it is not a string.
            ValueError: there is no text, or `vocab_size` is too small.
        """
        special = checked_special_tokens(special_tokens)
        if checked_level(level) == "gpt1":
            raise ValueError(
                'level must be "byte" or "character" to train a tokenizer. Received: level=\'gpt1\''
            )
        if level == "character":
            return cls(training.train_characters(texts), (), special, level)
        return cls(*training.train_byte_level(texts, vocab_size, special), special, level)

    @classmethod
    def from_files(
        cls,
        vocab: str | os.PathLike[str],
        merges: str | os.PathLike[str],
        special_tokens: Iterable[str] | None = None,
        *,
        level: Level = "byte",
    ) -> "Tokenizer":
        """Load a vocabulary file and a merges file.

        They are GPT-2's encoder.json and vocab.bpe, Hugging Face's vocab.json and merges.txt, or,
        with `level="gpt1"`, GPT-1's encoder_bpe_40000.json and vocab_40000.bpe.

        Args:
            vocab: the JSON file of token -> id.
            merges: the text file of merges, one a line.
            special_tokens: the special tokens; one that `vocab` lacks gets the next free id. None
                is `<unk>` for GPT-1 and `<|endoftext|>` otherwise.
            level: "byte" or "gpt1".

        Returns:
            The tokenizer.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file does not hold what it should.
        """
        vocabulary = vocabulary_files.read_vocabulary(vocab)
        return cls(vocabulary, vocabulary_files.read_merges(merges), special_tokens, level)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Load a tokenizer.json of the `tokenizers` library.

        It must describe one of these:

        - a byte-level BPE whose pre-tokenizer is one of our splits (see `Tokenizer`), with or
          without an NFC normalizer and `ignore_merges`;
        - GPT-1's BPE as transformers writes it;
        - a character tokenizer as `save` writes it.

        Special tokens are kept, and so are added tokens that are not special if they are not
        normalized. Padding, truncation and post-processors, which put special tokens at the ends
        of a text, are not taken over: `encode` never adds any. Ids that the vocabulary leaves out
        get placeholders ("<|unused_7|>"), which `encode` never gives.

        Args:
            path: the file.

        Returns:
            The tokenizer.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is not such JSON; the message names what is not supported.
        """
        text = vocabulary_files.read_text(path)
        return cls(**tokenizer_json.from_tokenizer_json(text, str(path))._asdict())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Tokenizer":
        """Load what `save` wrote.

        Args:
            folder: a folder that holds tokenizer.json.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: there is no tokenizer.json.
            ValueError: it cannot be used; the message names the reason.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"the folder has no {FILE_NAME}. Received: folder={folder}")
        return cls.from_file(path)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write tokenizer.json, which the `tokenizers` library also reads, into a folder.

        Args:
            folder: it is made if it does not exist. An older tokenizer.json is replaced.

        Raises:
            OSError: the file cannot be written; an older one is then as it was.
        """
        with whole_file(Path(folder) / FILE_NAME) as scratch:
            scratch.write_bytes(self.to_json().encode("utf-8"))

    def to_json(self) -> str:
        """Give the whole tokenizer as one string, the content of tokenizer.json."""
        return tokenizer_json.to_tokenizer_json(self._parts())

    def _parts(self) -> Parts:
        return Parts(
            vocabulary=self._ids,
            merges=self._merges,
            special_tokens=list(self._special),
            level=self._level,
            split=self._split,
            ignore_merges=self._ignore_merges,
            nfc=self._nfc,
            added_tokens=list(self._added),
        )

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """Make a tokenizer from what `to_json` gave.

        Args:
            text: the JSON text.

        Returns:
            An equal tokenizer.

        Raises:
            ValueError: the text is not such JSON.
        """
        return cls(**tokenizer_json.from_tokenizer_json(text)._asdict())

    def get_config(self) -> dict[str, Any]:
        """Give the whole tokenizer as a Keras config."""
        return {"tokenizer_json": self.to_json()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Tokenizer":
        """Make a tokenizer from what `get_config` gave."""
        return cls.from_json(config["tokenizer_json"])

    # Encoding

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Turn text into token ids.

        Args:
            text: any valid Unicode string.
            allow_special: whether a special token written in the text becomes its id. Otherwise
                it is text like any other.

        Returns:
            The ids; [] for ''.

        Raises:
            TypeError: `text` is not a string.
            ValueError: `text` holds a lone surrogate, or a character that a character tokenizer
                does not know.

        Example:
            >>> tokenizer.encode("Hello world")
            [15496, 995]
        """
        check_text(text)
        return self._encoder(allow_special).encode_batch([text])[0]

    def encode_literally(self, text: str) -> list[int]:
        """Turn text into token ids as `encode` does, but find no added tokens in it either.

        Args:
            text: as for `encode`; whatever tokens are written in it are text like any other.

        Returns:
            The ids, none of which is a special or an added token's.

        Raises:
            TypeError: as for `encode`.
            ValueError: as for `encode`.
        """
        check_text(text)
        return self._engine.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str], allow_special: bool = False) -> list[list[int]]:
        """Turn several texts into token ids, in parallel.

        Args:
            texts: strings.
            allow_special: as for `encode`.

        Returns:
            One list of ids per text.

        Raises:
            TypeError: `texts` is one string, or something in it is not a string.
            ValueError: as for `encode`; the message says which text.
        """
        if isinstance(texts, str | bytes):
            raise TypeError(
                "texts must be an iterable of strings, not one string (use encode). "
                f"Received: texts={texts!r:.80}"
            )
        texts = list(texts)
        for index, text in enumerate(texts):
            check_text(text, f"texts[{index}]")
        return self._encoder(allow_special).encode_batch(texts)

    def _encoder(self, allow_special: bool) -> Engine:
        return self._with_special if allow_special else self._without_special

    @property
    def level(self) -> Level:
        """The level: "byte", "character" or "gpt1"."""
        return self._level

    @property
    def split(self) -> Split:
        """How the byte level cuts text into words: "gpt2", "digits", "llama3" or "qwen2"."""
        return self._split

    @property
    def ignore_merges(self) -> bool:
        """Whether a word that is a token becomes it whatever the merges say."""
        return self._ignore_merges

    @property
    def nfc(self) -> bool:
        """Whether text is normalized to NFC before it is encoded."""
        return self._nfc

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The merges, first merge first; empty for the character level."""
        return list(self._merges)

    def graph(self) -> "GraphTokenizer":
        """Give the same tokenizer as TensorFlow graph operations; made once.

        Raises:
            ValueError: there are no such operations for it: GPT-1's level, `nfc`, added tokens
                that are not special.
        """
        return self._graph

    @functools.cached_property
    def _graph(self) -> "GraphTokenizer":
        from keras_gpt.tokenizers.graph import GraphTokenizer

        return GraphTokenizer(self)

    # Python's own

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of the whole tokenizer, 64 hexadecimal digits: equal if and only if equal."""
        return hashlib.sha256(self.to_json().encode("utf-8")).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return NotImplemented
        return self is other or self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return (
            f"Tokenizer(level={self._level!r}, split={self._split!r}, vocab_size={self.vocab_size}, "
            f"special_tokens={self._special}, fingerprint={self.fingerprint[:12]!r})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # The library's engine and TensorFlow's variables stay out of pickles and deep copies.
        return Tokenizer.from_json, (self.to_json(),)
