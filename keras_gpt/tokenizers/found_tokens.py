"""Tokens that are found in text as they are written: special tokens and added ones."""

import re
from collections.abc import Mapping, Sequence

from keras_gpt.tokenizers.engines import Engine


def with_found_tokens(engine: Engine, tokens: Mapping[str, int]) -> Engine:
    """Make an engine that finds tokens in text, and leaves what is between them to another one.

    Args:
        engine: the engine for ordinary text.
        tokens: token -> id; of two that start at the same place the longer one is found.

    Returns:
        The engine; `engine` itself if there are no tokens.
    """
    return _FoundTokens(engine, tokens) if tokens else engine


class _FoundTokens:
    def __init__(self, engine: Engine, tokens: Mapping[str, int]) -> None:
        self._engine = engine
        self._tokens = tokens
        longest_first = sorted(tokens, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn each text into ids."""
        # The group makes split() keep the found tokens, at odd places, between ordinary text.
        split = [self._pattern.split(text) for text in texts]
        ordinary = [piece for pieces in split for piece in pieces[::2]]
        encoded = iter(self._engine.encode_batch(ordinary))
        rows = []
        for pieces in split:
            row = list(next(encoded))
            for token in pieces[1::2]:
                row += [self._tokens[token], *next(encoded)]
            rows.append(row)
        return rows
