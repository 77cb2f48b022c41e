"""The decode loop: prompts in, one token a row and step out."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

import numpy as np

from keras_gpt.generation.batch import Batch, Logprobs, read_at_once
from keras_gpt.generation.cache import RECENT_SLOTS, batch_bucket
from keras_gpt.generation.endless import EndlessBatch
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row


class Chosen(NamedTuple):
    """One token of a row."""

    token: int
    is_stop: bool  # the row ends here, and the token does not belong to the answer
    logprob: float | None
    top_logprobs: dict[int, float] | None  # the most probable tokens
    end: str | None = None  # why the row ends with this token, which belongs to the answer


def decode(
    model: Decoder,
    rows: Sequence[Row],
    ended: AbstractSet[int] = frozenset(),
    num_logprobs: int | None = None,
    runs_ahead: bool = False,
) -> Iterator[dict[int, Chosen]]:
    """Choose token after token for every row until each has stopped.

    Args:
        model: gives the logits.
        rows: what to go on with; each fits the context, with its new tokens or with sinks.
        ended: rows that the caller wants no more of; it may grow between the steps.
        num_logprobs: how many of the most probable tokens to give with their log-probabilities;
            None gives none, not even of the chosen ones.
        runs_ahead: whether tokens may come several at a time, which takes less time in all; not
            with log-probabilities.

    Yields:
        At each step the chosen token of each row that has not ended.
    """
    if any(row.max_new_tokens > 0 for row in rows):
        is_endless = rows[0].attention_sinks is not None
        kind = EndlessBatch if is_endless else Batch
        # An endless row may fill the context at any step.
        most_ahead = RECENT_SLOTS if runs_ahead and not is_endless else 1
        batch = kind(model, rows, read_at_once(model, rows), most_ahead)
        yield from follow(batch, rows, ended, num_logprobs)


class ChoosingBatch(Protocol):
    """Rows that have chosen a token each, and can go on; `Batch` says what each part is."""

    tokens: np.ndarray

    @property
    def size(self) -> int:
        """How many rows are computed."""

    def step(self, live: Sequence[int]) -> None:
        """Choose the next tokens."""

    def logprobs(self) -> Logprobs:
        """Give the log-probabilities of the last chosen tokens."""

    def end_of(self, place: int) -> str | None:
        """Say whether something else than a stop token ends a row."""

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with these rows alone."""


def follow(
    batch: ChoosingBatch, rows: Sequence[Row], ended: AbstractSet[int], num_logprobs: int | None
) -> Iterator[dict[int, Chosen]]:
    """Take a batch from step to step until each of its rows has stopped; for the rest see `decode`."""
    live = [index for index, row in enumerate(rows) if row.max_new_tokens > 0]
    places = {index: index for index in live}  # where each live row stands in the batch
    step = 0
    while True:
        wanted = [Wanted(places[i], rows[i].stop_token_ids, num_logprobs) for i in live]
        chosen = chosen_tokens(batch, wanted)
        tokens = dict(zip(live, chosen, strict=True))
        yield tokens
        step += 1
        live = [
            index
            for index in live
            if not tokens[index].is_stop
            and tokens[index].end is None
            and index not in ended
            and step < rows[index].max_new_tokens
        ]
        if not live:
            return
        if batch_bucket(len(live)) < batch.size:
            # Rows that have ended are computed no more.
            batch.keep([places[index] for index in live])
            places = {index: place for place, index in enumerate(live)}
        batch.step([places[index] for index in live])


class Wanted(NamedTuple):
    """A row of a batch that somebody looks at."""

    place: int
    stop_token_ids: tuple[int, ...]
    num_logprobs: int | None  # as for `decode`


def chosen_tokens(batch: ChoosingBatch, rows: Sequence[Wanted]) -> list[Chosen]:
    """Give the last token of rows of a batch that has just chosen."""
    found = batch.logprobs() if any(row.num_logprobs is not None for row in rows) else None
    chosen = []
    for place, stops, count in rows:
        token, logprob, top = int(batch.tokens[place]), None, None
        if found is not None and count is not None:
            logprob = float(found.chosen[place])
            pairs = zip(found.top_ids[place, :count], found.top[place, :count], strict=True)
            top = {int(each): float(value) for each, value in pairs}
        chosen.append(Chosen(token, token in stops, logprob, top, batch.end_of(place)))
    return chosen
