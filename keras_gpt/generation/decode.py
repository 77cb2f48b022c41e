"""The decode loop: prompts in, one token a row and step out."""

from collections.abc import Iterator, Sequence

from keras_gpt.generation.batch import Batch
from keras_gpt.generation.cache import batch_bucket
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row


def decode(
    model: Decoder, rows: Sequence[Row], stop_token_ids: Sequence[int]
) -> Iterator[list[int | None]]:
    """Choose token after token for every row until each has stopped.

    Args:
        model: gives the logits.
        rows: what to go on with; each fits the context together with its new tokens.
        stop_token_ids: a row ends when one of these is chosen; it is not given out.

    Yields:
        At each step one token for each row, or None for a row that has ended.
    """
    live = [index for index, row in enumerate(rows) if row.max_new_tokens > 0]
    if not live:
        return
    batch = Batch(model, rows)
    places = {index: index for index in live}  # where each live row stands in the batch
    step = 0
    while True:
        live = [index for index in live if batch.tokens[places[index]] not in stop_token_ids]
        if not live:
            return
        tokens: list[int | None] = [None] * len(rows)
        for index in live:
            tokens[index] = int(batch.tokens[places[index]])
        yield tokens
        step += 1
        live = [index for index in live if step < rows[index].max_new_tokens]
        if not live:
            return
        if batch_bucket(len(live)) < batch.size:
            # Rows that have ended are computed no more.
            batch.keep([places[index] for index in live])
            places = {index: place for place, index in enumerate(live)}
        batch.step()
