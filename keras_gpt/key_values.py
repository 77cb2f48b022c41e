"""The keys and values of earlier tokens, as layers make them and decoding keeps them."""

from typing import Any, NamedTuple

from keras import ops


class KeyValues(NamedTuple):
    """The keys and values of one layer, each (batch, key/value heads, length, head_dim)."""

    keys: Any
    values: Any


def put(old: KeyValues, new: KeyValues, starts: Any) -> KeyValues:
    """Put new places into old ones, each row from its own start.

    Args:
        old: length places a row.
        new: fewer places a row; what would go beyond the old length is left out.
        starts: (batch,) int32, where each row's new places begin.

    Returns:
        Keys and values of the old shape and dtype.
    """
    length, count = ops.shape(old.keys)[2], new.keys.shape[2]
    places = ops.arange(length, dtype="int32")[None, :]
    wanted = places - starts[:, None]  # (batch, length): which new place goes to each old one
    is_new = ops.logical_and(wanted >= 0, wanted < ops.shape(new.keys)[2])[:, None, :, None]

    def put_in(old: Any, new: Any) -> Any:
        new = ops.cast(new, old.dtype)
        if count != 1:  # one place is spread over the row by `where` itself
            index = ops.clip(wanted, 0, ops.shape(new)[2] - 1)[:, None, :, None]
            new = ops.take_along_axis(new, index, axis=2)
        return ops.where(is_new, new, old)

    return KeyValues(put_in(old.keys, new.keys), put_in(old.values, new.values))
