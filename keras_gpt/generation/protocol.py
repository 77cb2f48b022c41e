"""What this room knows of a model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from keras_gpt.config import GPTConfig
from keras_gpt.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer


class KeyValues(Protocol):
    """Keys and values of one layer; a pair that can be taken apart and made again."""

    keys: Any
    values: Any


class Decoder(Protocol):
    """A model that reads prompts into a cache and then goes on token by token."""

    config: GPTConfig
    tokenizer: "Tokenizer | None"
    generation_settings: GenerationSettings
    variables: list[Any]

    def __call__(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Give the logits of the next token at every position."""

    def prefill(self, token_ids: Any, lengths: Any) -> tuple[Any, list[Any]]:
        """Read prompts; see `GPT.prefill`."""

    def step(
        self,
        tokens: Any,
        lengths: Any,
        slot: Any,
        past: Sequence[Any],
        recent: Sequence[Any],
    ) -> tuple[Any, list[Any]]:
        """Read one more token a row; see `GPT.step`."""

    def score_positions(self, token_ids: Any, prefix_lengths: Any) -> Any:
        """Give -log P of each next token; see `GPT.score_positions`."""
