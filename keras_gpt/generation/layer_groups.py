"""A model's passes as a few compiled programs, of which one serves several groups of blocks.

XLA compiles each block of a model anew, though all of them compute the same with other weights. Here
the program of a group of blocks takes their weights as arguments, and is called for one group after
the other: a model of 30 blocks is compiled as fast as one of 10. Each call costs a little, so groups
are few (tests/benchmarks/RESULTS.md has the figures). For a step of one token a row, where it costs
most, blocks that are few go into one program. A loop of such steps may be one program itself, and then
these are parts of it (`DecodeSteps`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_gpt.generation.compiled import assembled, compiled
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.reordered import ReorderedMatrices
from keras_gpt.key_values import BlockInputs, KeyValues
from keras_gpt.matrix_order import may_be_reordered
from keras_gpt.onednn import with_reordered

_MOST_GROUPS = 4
# So many blocks are compiled at once in acceptable time; for an exported model, whose graph has a
# branch for each number of rows, half as many.
_FEW_BLOCKS = 12
_MOST_GROUPS_OF_UNKNOWN_ROWS = 2


class LayerGroups:
    """`prefill` and `step` of a model, to be called in an `assembled` function.

    Args:
        model: its blocks.
        copies: of its matrices, which steps of a batch read.
    """

    def __init__(self, model: Decoder, copies: ReorderedMatrices) -> None:
        self._model, self._copies = model, copies
        self._prefill_inputs = compiled(model.prefill_inputs, model)
        self._step_inputs = compiled(self._inputs_of_step, model)
        forms = [_form(model, layer) for layer in range(len(model.blocks))]
        blocks = {form: _block(model, forms.index(form)) for form in set(forms)}

        @functools.cache
        def programs(*own: Any) -> _Programs:
            return _programs(model, [blocks[form] for form in own])

        def in_groups(most: int) -> list[tuple[range, _Programs]]:
            cut = _groups(forms, most)
            return [(layers, programs(*forms[layers.start : layers.stop])) for layers in cut]

        self._groups = self._for_one_token = self._for_unknown_rows = in_groups(_MOST_GROUPS)
        if len(forms) <= _FEW_BLOCKS:
            self._for_one_token = in_groups(1)
            self._for_unknown_rows = in_groups(_MOST_GROUPS_OF_UNKNOWN_ROWS)

    def prefill(self, token_ids: Any, lengths: Any) -> tuple[Any, list[KeyValues]]:
        """Read prompts; see `GPT.prefill`."""
        inputs = self._prefill_inputs(token_ids, lengths)
        kept: list[KeyValues] = []
        for layers, programs in self._groups:
            states, some = programs.prefill(self._values(layers), inputs)
            inputs = inputs._replace(states=states)
            kept += some
        return inputs.states, kept

    def step(
        self,
        token_ids: Any,
        lengths: Any,
        slots: Any,
        past: Sequence[KeyValues],
        recent: Sequence[KeyValues],
    ) -> tuple[Any, list[KeyValues]]:
        """Read more tokens; see `GPT.step`."""
        first = recent[0].keys
        inputs = self._step_inputs(token_ids, lengths, slots, [each.keys for each in past], first)
        kept: list[KeyValues] = []
        rows, new = token_ids.shape
        groups = self._for_unknown_rows if rows is None else self._for_one_token
        if new != 1:  # more tokens a row read no copies
            groups, rows = self._groups, None
        for layers, programs in groups:
            part = slice(layers.start, layers.stop)
            values = self._values(layers, rows)
            states, some = programs.step(
                values, inputs, slots, list(past[part]), list(recent[part])
            )
            inputs = inputs._replace(states=states)
            kept += some
        return inputs.states, kept

    def _inputs_of_step(
        self, token_ids: Any, lengths: Any, slots: Any, past_keys: Any, recent_keys: Any
    ) -> BlockInputs:
        sizes = [ops.shape(keys)[2] for keys in past_keys]
        return self._model.step_inputs(token_ids, lengths, slots, sizes, ops.shape(recent_keys)[2])

    def _values(self, layers: Sequence[int], rows: int | None = None) -> list[list[Any]]:
        """Give what the program of a group of blocks reads: weights, and copies for so many rows."""
        weights = [self._model.blocks[layer].weights for layer in layers]
        return [
            [*(ops.convert_to_tensor(each.value) for each in own), *self._copies.of(own, rows)]
            for own in weights
        ]


class _Programs(NamedTuple):
    """Compiled functions of a group's weights and of what `CachedPass` takes."""

    prefill: Callable[..., Any]
    step: Callable[..., Any]


def _programs(model: Decoder, runs: Sequence[_Programs]) -> _Programs:
    """Make the programs of a group out of the passes of its blocks."""

    def prefill(values: Any, inputs: BlockInputs) -> tuple[Any, list[KeyValues]]:
        kept = []
        for run, own in zip(runs, values, strict=True):
            states, each = run.prefill(own, inputs)
            inputs = inputs._replace(states=states)
            kept += each
        return inputs.states, kept

    def step(
        values: Any, inputs: BlockInputs, slots: Any, past: Any, recent: Any
    ) -> tuple[Any, list[KeyValues]]:
        kept = []
        for run, own, *key_values in zip(runs, values, past, recent, strict=True):
            states, each = run.step(own, inputs, slots, *[[part] for part in key_values])
            inputs = inputs._replace(states=states)
            kept += each
        return inputs.states, kept

    return _Programs(compiled(prefill, model), compiled(step, model))


def _block(model: Decoder, layer: int) -> _Programs:
    """Make the passes of a block, with its weights as the first argument, traced once for all groups.

    Behind the weights are copies of its matrices, or None.
    """
    variables = model.blocks[layer].weights
    copied = [id(each) for each in variables if may_be_reordered(each)]

    def with_values(run: Callable[..., Any]) -> Callable[..., Any]:
        def function(values: Sequence[Any], *args: Any) -> Any:
            weights, copies = values[: len(variables)], values[len(variables) :]
            mapping = list(zip(variables, weights, strict=True))
            found = dict(zip(copied, copies, strict=True))
            with (
                keras.StatelessScope(state_mapping=mapping),
                with_reordered(lambda variable: found.get(id(variable))),
            ):
                return run([layer], *args)

        return assembled(function, model)

    return _Programs(with_values(model.prefill_blocks), with_values(model.step_blocks))


def _form(model: Decoder, layer: int) -> Any:
    """Give what two blocks must have in common to share a program."""
    block = model.blocks[layer]
    weights = [
        (each.path.removeprefix(block.path), tuple(each.shape), each.dtype)
        for each in block.weights
    ]
    return model.config.attention_window(layer), tuple(weights)


def _groups(forms: Sequence[Any], most_groups: int) -> list[range]:
    """Cut a row of blocks into groups so that few blocks have to be compiled."""

    def cut(size: int) -> list[range]:
        starts = range(0, len(forms), size)
        return [range(start, min(start + size, len(forms))) for start in starts]

    def cost(size: int) -> tuple[int, int]:
        different = {tuple(forms[group.start : group.stop]) for group in cut(size)}
        return sum(map(len, different)), -size

    smallest = -(-len(forms) // most_groups)
    return cut(min(range(smallest, len(forms) + 1), key=cost))
