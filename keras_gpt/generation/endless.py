"""Going on beyond the context: the first tokens and the newest ones stay, and positions count those.

When a row fills the context, an eighth of what stands behind its first tokens is dropped, the oldest
first. The others move up: their keys are turned back by as many positions, so that all positions are
those within the cache, and no turned key is ever farther than the model was trained for. In pieces,
because each piece costs a copy of the past, and each turning a rounding of keys that are kept in half
precision.
"""

from typing import Any

import numpy as np

from keras_gpt.generation.batch import Batch
from keras_gpt.generation.compiled import compiled, kept_with
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import tensor
from keras_gpt.generation.sampling_options import check_int


def count_evicted(context_length: int, attention_sinks: int) -> int:
    """Say how many tokens a full row drops at a time."""
    return max(1, (context_length - attention_sinks) // 8)


def check_sinks(model: Decoder, attention_sinks: Any, others: dict[str, Any]) -> None:
    """Refuse a number of sinks, or a model, with which rows cannot go on beyond the context.

    Args:
        model: is to generate.
        attention_sinks: as for `GPT.generate`.
        others: settings that do not go with it, by their names; None is not asked for.
    """
    config = model.config
    # One more token stays beside those that are dropped.
    check_int("attention_sinks", attention_sinks, 1, config.context_length - 2)
    if config.positions != "rotary" or any(config.attention_windows):
        raise ValueError(
            "attention_sinks must come with a model of rotary positions and without windows, whose "
            f"keys can be moved. Received: attention_sinks={attention_sinks}, "
            f"positions={config.positions!r}, attention_windows={config.attention_windows}"
        )
    for name, given in others.items():
        if given is not None:
            raise ValueError(
                f"attention_sinks does not go with {name}: give one of them. Received: "
                f"attention_sinks={attention_sinks}, {name}={given!r:.80}"
            )


class EndlessBatch(Batch):
    """A batch whose rows never grow longer than the context; for the rest see `Batch`.

    Source: "Efficient Streaming Language Models with Attention Sinks", arXiv:2309.17453, section 3.2.
    """

    def _make_room(self) -> None:
        context, sinks = self._model.config.context_length, self._rows[0].attention_sinks
        assert sinks is not None
        if (self._lengths + self._slots).max() < context:
            super()._make_room()
            return
        self._fold()
        dropped = np.where(self._lengths == context, count_evicted(context, sinks), 0)
        drop = kept_with(
            self._model, "_drop_tokens", lambda: compiled(self._model.drop_tokens, self._model)
        )
        self._past = drop(self._past, tensor(sinks, "int32"), tensor(dropped, "int32"))
        self._lengths = (self._lengths - dropped).astype("int32")
