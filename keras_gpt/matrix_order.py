"""The order in which a dense layer's matrix lies: one in memory, another in files, or in a copy."""

from typing import Any

import numpy as np


def lies_by_outputs(variable: Any) -> bool:
    """Say whether a variable of floats is (outputs, inputs); our `Dense` layers mark theirs so."""
    return getattr(variable, "lies_by_outputs", False)


def may_be_reordered(variable: Any) -> bool:
    """Say whether a variable is the matrix of a product that may read a copy in another order.

    Layers mark theirs of int8 and of bfloat16 so; see `keras_gpt.onednn.reordered`.
    """
    return getattr(variable, "may_be_reordered", False)


def as_in_files(variable: Any, value: np.ndarray) -> np.ndarray:
    """Turn a variable's value into a file's, and a file's into a variable's.

    A dense layer keeps its matrix as (outputs, inputs), which decoding is faster with; all our files
    have it as (inputs, outputs), as Keras has.
    """
    return value.T if lies_by_outputs(variable) else value
