"""Tokens, their ids and their bytes: from ids to text."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from keras_gpt.tokenizers.checks import checked_id, checked_ids
from keras_gpt.tokenizers.streaming import StreamDecoder

END_OF_TEXT = "<|endoftext|>"


class Vocabulary:
    """Tokens with their ids, and the text that ids stand for: the half of `Tokenizer` that decodes.

    Args:
        vocabulary: token -> id; the ids are 0..n-1.
        special_tokens: the special tokens; one that `vocabulary` lacks gets the next free id.
        ordinary_bytes: gives the bytes that an ordinary token stands for.
        added_tokens: further tokens that, like special ones, stand for what they are called; one
            that `vocabulary` lacks gets the next free id.
        trims_end: whether a space that ends the last token is no part of the text.

    Raises:
        ValueError: the ids are not 0..n-1, or there are none.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        special_tokens: Sequence[str],
        ordinary_bytes: Callable[[str], bytes],
        added_tokens: Sequence[str] = (),
        trims_end: bool = False,
    ) -> None:
        ids = dict(vocabulary)
        for token, token_id in ids.items():
            if not isinstance(token_id, int) or isinstance(token_id, bool):
                raise ValueError(
                    f"the ids of a vocabulary must be integers. Received: {token!r}: {token_id!r}"
                )
        literal = {*special_tokens, *added_tokens}
        for token in (*special_tokens, *added_tokens):
            ids.setdefault(token, len(ids))
        tokens = sorted(ids, key=ids.__getitem__)
        if not tokens:
            raise ValueError("vocabulary must hold at least one token. Received: vocabulary={}")
        for expected, token in enumerate(tokens):
            if ids[token] != expected:
                raise ValueError(
                    f"the ids of a vocabulary must be 0..{len(ids) - 1}, each once. "
                    f"Received: id {ids[token]} of token {token!r} where {expected} is due"
                )
        self._tokens = tokens
        self._ids = ids
        self._special = {token: ids[token] for token in sorted(special_tokens, key=ids.__getitem__)}
        self._added = {token: ids[token] for token in sorted(added_tokens, key=ids.__getitem__)}
        self._trims_end = trims_end
        self._bytes = [
            token.encode("utf-8") if token in literal else ordinary_bytes(token) for token in tokens
        ]

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special: bool = False) -> str:
        """Turn token ids into text.

        Args:
            ids: a list or a one-dimensional array of integers.
            skip_special: whether to leave special tokens out.

        Returns:
            The text. Bytes that are no valid UTF-8 become U+FFFD.

        Raises:
            TypeError: the ids are not integers.
            ValueError: an id is not in the vocabulary.
        """
        return self.decode_bytes(ids, skip_special).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int] | np.ndarray, skip_special: bool = False) -> bytes:
        """Turn token ids into the bytes that they stand for.

        Args:
            ids: a list or a one-dimensional array of integers.
            skip_special: whether to leave special tokens out.

        Returns:
            Bytes, which may be no valid UTF-8 if the ids end inside a character.

        Raises:
            TypeError: the ids are not integers.
            ValueError: an id is not in the vocabulary.
        """
        checked = checked_ids(ids, self.vocab_size)
        if skip_special:
            left_out = set(self._special.values())
            checked = [one for one in checked if one not in left_out]
        joined = b"".join([self._bytes[one] for one in checked])
        return joined.removesuffix(b" ") if self._trims_end else joined

    def decode_batch(
        self, batch: Iterable[Sequence[int] | np.ndarray], skip_special: bool = False
    ) -> list[str]:
        """Turn several rows of token ids into text.

        Args:
            batch: rows of integers; they may differ in length.
            skip_special: as for `decode`.

        Returns:
            One string per row.

        Raises:
            TypeError: the ids are not integers.
            ValueError: an id is not in the vocabulary.
        """
        return [self.decode(ids, skip_special) for ids in batch]

    def stream_decoder(self) -> StreamDecoder:
        """Make a decoder for ids that arrive one at a time; see `StreamDecoder`."""
        return StreamDecoder(self.token_bytes, self._trims_end)

    @property
    def vocab_size(self) -> int:
        """The number of ids, special tokens included."""
        return len(self._tokens)

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens and their ids, in the order of ids."""
        return dict(self._special)

    @property
    def added_tokens(self) -> dict[str, int]:
        """The added tokens that are not special, and their ids, in the order of ids."""
        return dict(self._added)

    @property
    def end_of_text_id(self) -> int | None:
        """The id of `<|endoftext|>`, or None if that is not a special token here."""
        return self._special.get(END_OF_TEXT)

    def token_to_id(self, token: str) -> int | None:
        """Give the id of a token as the vocabulary writes it ("Ġthe"), or None."""
        return self._ids.get(token)

    def id_to_token(self, token_id: int) -> str:
        """Give the token of an id as the vocabulary writes it; ValueError for an unknown id."""
        return self._tokens[checked_id(token_id, self.vocab_size)]

    def token_bytes(self, token_id: int) -> bytes:
        """Give the bytes that an id stands for inside a text; ValueError for an unknown id."""
        return self._bytes[checked_id(token_id, self.vocab_size)]
