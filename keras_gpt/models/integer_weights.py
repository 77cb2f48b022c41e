"""Models whose matrices are integers: built so, loaded so, and told from others."""

import functools
from collections.abc import Iterator
from typing import Any

import keras

from keras_gpt.checkpoints import Checkpoint, Taker, load_weights, tensor_name
from keras_gpt.layers import OUR_MODES, RoundedMatrices, rounding_policy
from keras_gpt.memory import give_back_memory


def split_policy(dtype: Any) -> tuple[Any, str | None]:
    """Give the dtype policy of a model without its mode, and the mode: "int8", "int4" or None.

    Raises:
        ValueError: the policy is of a mode that no model can be built in.
    """
    policy = keras.dtype_policies.get(dtype)
    mode = policy.quantization_mode
    if mode is None:
        return policy, None
    plain = keras.dtype_policies.get(policy.name.partition("_from_")[2])
    if policy.name not in [f"{each}_from_{plain.name}" for each in OUR_MODES]:
        raise ValueError(
            "dtype must be a policy of floats, or one such as int8_from_float32 or "
            f"int4_from_bfloat16. Received: dtype={policy.name!r}"
        )
    return plain, mode


def with_mode(dtype: Any, mode: str | None) -> Any:
    """Give the dtype policy of a model that is built in a mode, from that of the same in floats.

    Raises:
        ValueError: the policy is of another mode.
    """
    if mode is None:
        return dtype
    plain, own = split_policy(dtype)
    if own not in (None, mode):
        raise ValueError(
            f"dtype must be a policy of floats where weights are rounded to {mode}. Received: "
            f"dtype={keras.dtype_policies.get(dtype).name!r}"
        )
    return rounding_policy(plain, mode)


def set_mode(model: keras.Model, mode: str | None) -> None:
    """Let the matrices of a model be built in a mode; before it is built."""
    if mode is not None:
        for layer in _layers_with_matrices(model):
            layer.dtype_policy = rounding_policy(layer.dtype_policy, mode)


def mode_of(model: keras.Model) -> str | None:
    """Give the mode that all matrices of a model are in; None if they are floats, or differ."""
    modes = {layer.quantization_mode for layer in _layers_with_matrices(model)}
    mode = modes.pop() if len(modes) == 1 else None
    return mode if mode in OUR_MODES else None


def oddly_changed(model: keras.Model) -> list[str]:
    """Give the paths of layers that no file can say of how they were changed.

    These are layers with LoRA weights, and those in another mode than all matrices are in.
    """
    mode = mode_of(model)
    matrices = set(_layers_with_matrices(model))
    return [
        layer.path
        for layer in model._flatten_layers()
        if getattr(layer, "lora_enabled", False)
        or (layer.quantization_mode is not None and (layer not in matrices or mode is None))
    ]


def require_trainable(model: keras.Model) -> None:
    """Check, before a model is trained, that its matrices can change.

    Raises:
        ValueError: they are integers, have no LoRA weights beside them, and nobody froze them.
    """
    matrices = list(_layers_with_matrices(model))
    if matrices and all(
        layer.quantization_mode is not None
        and layer.trainable
        and not getattr(layer, "lora_enabled", False)
        for layer in matrices
    ):
        raise ValueError(
            "the model's matrices are integers, which training cannot change: load it without "
            "quantize, give layers LoRA weights (enable_lora), or set its trainable to False to "
            f"train what stands on it alone. Received: {len(matrices)} such layers, the first is "
            f"{matrices[0].path}"
        )


def chosen_mode(checkpoint: Checkpoint, quantize: str | None) -> str | None:
    """Give the mode to build a model in, from what it is made of and what was asked for.

    Raises:
        ValueError: the checkpoint holds integers of another mode.
    """
    require_mode(quantize)
    stored = checkpoint.quantization
    if None not in (stored, quantize) and stored != quantize:
        raise ValueError(
            f"quantize must be None or {stored!r}, which the weights were rounded in before: take "
            f"the source that they were made from. Received: quantize={quantize!r}, and "
            f"{checkpoint.source}"
        )
    return stored or quantize


def require_mode(quantize: str | None) -> None:
    """Check an argument `quantize`.

    Raises:
        ValueError: it is no mode of ours.
    """
    if quantize is not None and quantize not in OUR_MODES:
        raise ValueError(f"quantize must be None or one of {OUR_MODES}. Received: {quantize!r}")


def load_into(model: keras.Model, checkpoint: Checkpoint) -> None:
    """Read a checkpoint into a model of floats or integers.

    Where the model has integers and the checkpoint floats, each matrix is rounded as it is read, so
    that no two of them are in memory as floats.

    Raises:
        ValueError: the checkpoint's tensors are not those of the model, or were tampered with.
    """
    takers: dict[str, Taker] = {}
    replaced: set[int] = set()
    if checkpoint.quantization is None and mode_of(model) is not None:
        for layer in _layers_with_matrices(model):
            for name, matrix in layer.matrices().items():
                variables = layer.stored(name)
                replaced |= {id(each) for each in variables}
                # The integers have the name that the floats would have.
                taker = Taker(matrix.shape, functools.partial(layer.keep, name))
                takers[tensor_name(variables[0])] = taker
    load_weights(checkpoint, [each for each in model.weights if id(each) not in replaced], takers)
    give_back_memory()


def _layers_with_matrices(model: keras.Model) -> Iterator[RoundedMatrices]:
    return (each for each in model._flatten_layers() if isinstance(each, RoundedMatrices))
