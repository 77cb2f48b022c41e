"""The forward pass of a GPT with a cache: prompts, and the tokens that follow them."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_gpt.config import GPTConfig
from keras_gpt.key_values import BlockInputs, KeyValues, ring_positions
from keras_gpt.layers import Block, RotaryTables, attention_mask, drop_turned, token_positions


class CachedPass:
    """The methods of `GPT` that decoding calls.

    Each pass is two: what all blocks take is made first, and then the blocks run, all of them or
    some. So a compiled program may hold a few blocks, and serve several groups of them.
    """

    config: GPTConfig
    blocks: list[Block]

    def embed_tokens(
        self, token_ids: Any, positions: Any, training: bool | None
    ) -> tuple[Any, RotaryTables | None]:
        """Give what the first block takes; see `GPT.embed_tokens`."""
        raise NotImplementedError

    def project(self, states: Any) -> Any:
        """Turn last states into logits; see `GPT.project`."""
        raise NotImplementedError

    def finish(self, states: Any) -> Any:
        """Make the last states; see `GPT.finish`."""
        raise NotImplementedError

    def prefill(self, token_ids: Any, lengths: Any) -> tuple[Any, list[KeyValues]]:
        """Read prompts and keep every layer's keys and values.

        Args:
            token_ids: (batch, time) int32, padded on the right.
            lengths: (batch,) int32, real tokens of each row.

        Returns:
            The states behind the last block (batch, time, embedding_dim), for `next_logits`, and
            for each layer the keys and values, (batch, key/value heads, time, head_dim).
        """
        inputs = self.prefill_inputs(token_ids, lengths)
        return self.prefill_blocks(range(len(self.blocks)), inputs)

    def prefill_inputs(self, token_ids: Any, lengths: Any) -> BlockInputs:
        """Give what the blocks take when prompts are read; the arguments are those of `prefill`."""
        time = ops.shape(token_ids)[1]
        prefix = lengths if self.config.bidirectional_prefix else None
        windows = self.config.attention_windows
        masks = {
            window: attention_mask(time, window, prefix_lengths=prefix) for window in set(windows)
        }
        states, rotary = self.embed_tokens(token_ids, token_positions(time), training=False)
        return BlockInputs(states, tuple(masks[window] for window in windows), rotary)

    def prefill_blocks(
        self, layers: Sequence[int], inputs: BlockInputs
    ) -> tuple[Any, list[KeyValues]]:
        """Run some of the blocks on prompts.

        Args:
            layers: which blocks.
            inputs: of `prefill_inputs`, with the states that the blocks before gave.

        Returns:
            States and keys and values as from `prefill`, of these blocks.
        """
        states, kept = inputs.states, []
        for layer in layers:
            mask = inputs.masks[layer % len(inputs.masks)]
            states, each = self.blocks[layer].prefill(states, mask, inputs.rotary)
            kept.append(each)
        return states, kept

    def step(
        self,
        token_ids: Any,
        lengths: Any,
        slots: Any,
        past: Sequence[KeyValues],
        recent: Sequence[KeyValues],
    ) -> tuple[Any, list[KeyValues]]:
        """Read more tokens, usually one a row.

        A row's earlier tokens lie in `past` (its first `lengths` places) and then in `recent` (its
        first `slots` slots). Only `recent` is made anew. In a layer with a window `past` may be a
        ring (see `ring_positions`) that is shorter than the row and at least as long as the window.

        Args:
            token_ids: (batch, new) int32.
            lengths: (batch,) int32, how many tokens of each row are in `past`.
            slots: (batch,) int32, how many are in `recent`; the new tokens go behind them.
            past: for each layer keys and values, (batch, key/value heads, length, head_dim), the
                lengths the same for layers of the same window.
            recent: for each layer keys and values, (batch, key/value heads, slots, head_dim).

        Returns:
            The states behind the last block (batch, new, embedding_dim), for `next_logits`, and
            `recent` with the new tokens in it.
        """
        sizes = [ops.shape(each.keys)[2] for each in past]
        inputs = self.step_inputs(token_ids, lengths, slots, sizes, ops.shape(recent[0].keys)[2])
        return self.step_blocks(range(len(self.blocks)), inputs, slots, past, recent)

    def step_inputs(
        self, token_ids: Any, lengths: Any, slots: Any, sizes: Sequence[int], num_slots: int
    ) -> BlockInputs:
        """Give what the blocks take when more tokens are read.

        Args:
            token_ids: as for `step`.
            lengths: as for `step`.
            slots: as for `step`.
            sizes: for each layer, how many places its past has.
            num_slots: how many slots `recent` has.
        """
        batch, new = ops.shape(token_ids)[0], ops.shape(token_ids)[1]
        slot = ops.arange(num_slots, dtype="int32")[None, None, None, :]
        in_past = ops.reshape(lengths, (-1, 1, 1, 1))
        # (batch, 1, new, 1): the slot of each new token.
        own = ops.reshape(slots, (-1, 1, 1, 1)) + ops.reshape(
            ops.arange(new, dtype="int32"), (1, 1, -1, 1)
        )
        windows = self.config.attention_windows
        masks = {}
        for size, window in zip(sizes, windows, strict=False):
            if window in masks:
                continue
            place = ring_positions(lengths, size)[:, None, None, :]  # (batch, 1, 1, size)
            seen = ops.broadcast_to(place >= 0, (batch, 1, new, size))
            seen_slots = slot <= own  # (batch, 1, new, slots)
            if window is not None:
                seen = ops.logical_and(seen, in_past + own - place < window)
                seen_slots = ops.logical_and(seen_slots, own - slot < window)
            masks[window] = ops.concatenate([seen, seen_slots], axis=-1)
        positions = ops.reshape(in_past + own, (batch, new))
        # A row that has ended may stand beyond the last position; nobody looks at it.
        positions = ops.minimum(positions, self.config.context_length - 1)
        states, rotary = self.embed_tokens(token_ids, positions, training=False)
        # A model with fewer layers than windows has no mask for the last ones.
        return BlockInputs(states, tuple(masks[each] for each in windows[: len(sizes)]), rotary)

    def step_blocks(
        self,
        layers: Sequence[int],
        inputs: BlockInputs,
        slots: Any,
        past: Sequence[KeyValues],
        recent: Sequence[KeyValues],
    ) -> tuple[Any, list[KeyValues]]:
        """Run some of the blocks on new tokens.

        Args:
            layers: which blocks.
            inputs: of `step_inputs`, with the states that the blocks before gave.
            slots: as for `step`.
            past: as for `step`, of these blocks.
            recent: as for `step`, of these blocks.

        Returns:
            States and `recent` as from `step`, of these blocks.
        """
        states, kept = inputs.states, []
        for layer, layer_past, layer_recent in zip(layers, past, recent, strict=True):
            mask = inputs.masks[layer % len(inputs.masks)]
            states, each = self.blocks[layer].step(
                states, layer_past, layer_recent, slots, mask, inputs.rotary
            )
            kept.append(each)
        return states, kept

    def drop_tokens(self, past: Sequence[KeyValues], first: Any, counts: Any) -> list[KeyValues]:
        """Take `counts` tokens of each row out of `past` from place `first` on; see `drop_turned`."""
        return drop_turned(past, first, counts, self.config)

    def next_logits(self, states: Any) -> Any:
        """Turn states that `prefill` or `step` gave, (batch, embedding_dim), into float32 logits."""
        return ops.cast(self.project(self.finish(states)), "float32")
