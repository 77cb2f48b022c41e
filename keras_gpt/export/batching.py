"""How TensorFlow Serving may put the requests for a model together."""

from collections.abc import Sequence
from pathlib import Path

from keras_gpt.generation.cache import batch_bucket
from keras_gpt.generation.sampling_options import check_int

# TensorFlow Serving reads this file in the folder of a version, where it is told to
# (--enable_batching --enable_per_model_batching_parameters).
BATCHING_FILE = "batching_params.pbtxt"


def batch_sizes(max_batch: int | None) -> list[int]:
    """List the batches that are compiled for: each power of two, and the largest; [] for None.

    Example:
        >>> batch_sizes(6)
        [1, 2, 4, 6]
    """
    if max_batch is None:
        return []
    check_int("max_batch", max_batch, 1, None)
    powers = [1 << power for power in range(batch_bucket(max_batch).bit_length())]
    return [size for size in powers if size < max_batch] + [max_batch]


def write_batching_params(folder: Path, sizes: Sequence[int]) -> None:
    """Write the file that says how the requests for one version are put together.

    The server puts the inputs of requests behind one another, row by row, and shares the rows of
    the outputs out again. It fills a batch up to an allowed size with copies of a row of the last
    request. Where requests differ in the number of stop strings, it repeats the first stop string
    of the shorter one (without pad_variable_length_inputs all of them would fail), which says
    nothing new to a request of one row. An error of one row is an error of all requests in its
    batch.

    Args:
        folder: of the version.
        sizes: the batches that are compiled for.
    """
    lines = [
        f"max_batch_size {{ value: {sizes[-1]} }}",
        *[f"allowed_batch_sizes: {size}" for size in sizes],
        # Short beside the time that an answer takes.
        "batch_timeout_micros { value: 5000 }",
        "max_enqueued_batches { value: 100 }",
        "pad_variable_length_inputs: true",
    ]
    (folder / BATCHING_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
