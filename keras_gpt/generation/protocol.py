"""What this room knows of a model."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from keras_gpt.config import GPTConfig
from keras_gpt.generation_settings import GenerationSettings
from keras_gpt.key_values import BlockInputs, KeyValues

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer


class Decoder(Protocol):
    """A model that reads prompts into a cache and then goes on token by token."""

    config: GPTConfig
    tokenizer: "Tokenizer | None"
    generation_settings: GenerationSettings
    variables: list[Any]
    compute_dtype: Any
    blocks: Sequence[Any]

    def __call__(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Give the logits of the next token at every position."""

    def hidden_states(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Give the last states; see `GPT.hidden_states`."""

    def attention_by_layer(self, inputs: Any, mask: Any = None) -> Iterator[Any]:
        """Give each layer's attention weights; see `GPT.attention_by_layer`."""

    def prefill(self, token_ids: Any, lengths: Any) -> tuple[Any, list[KeyValues]]:
        """Read prompts; see `GPT.prefill`."""

    def step(
        self,
        token_ids: Any,
        lengths: Any,
        slots: Any,
        past: Sequence[KeyValues],
        recent: Sequence[KeyValues],
    ) -> tuple[Any, list[KeyValues]]:
        """Read more tokens; see `GPT.step`."""

    def prefill_inputs(self, token_ids: Any, lengths: Any) -> BlockInputs:
        """Give what the blocks take; see `GPT.prefill_inputs`."""

    def prefill_blocks(
        self, layers: Sequence[int], inputs: BlockInputs
    ) -> tuple[Any, list[KeyValues]]:
        """Run some of the blocks; see `GPT.prefill_blocks`."""

    def step_inputs(
        self, token_ids: Any, lengths: Any, slots: Any, sizes: Sequence[int], num_slots: int
    ) -> BlockInputs:
        """Give what the blocks take; see `GPT.step_inputs`."""

    def step_blocks(
        self,
        layers: Sequence[int],
        inputs: BlockInputs,
        slots: Any,
        past: Sequence[KeyValues],
        recent: Sequence[KeyValues],
    ) -> tuple[Any, list[KeyValues]]:
        """Run some of the blocks; see `GPT.step_blocks`."""

    def drop_tokens(self, past: Sequence[KeyValues], first: Any, counts: Any) -> list[KeyValues]:
        """Take tokens out of a past; see `GPT.drop_tokens`."""

    def next_logits(self, states: Any) -> Any:
        """Turn states into logits; see `GPT.next_logits`."""

    def finish(self, states: Any) -> Any:
        """Turn states of `prefill` or `step` into last states; see `GPT.finish`."""

    def score_positions(self, token_ids: Any, prefix_lengths: Any) -> Any:
        """Give -log P of each next token; see `GPT.score_positions`."""

    def packed_states(self, token_ids: Any, positions: Any, segments: Any, branches: Any) -> Any:
        """Read contexts with several continuations each; see `GPT.packed_states`."""

    def project(self, states: Any) -> Any:
        """Turn last states into logits; see `GPT.project`."""
