"""The keys and values of earlier tokens, as layers make them and decoding keeps them."""

from typing import Any, NamedTuple

from keras import ops


class KeyValues(NamedTuple):
    """The keys and values of one layer, each (batch, key/value heads, length, head_dim)."""

    keys: Any
    values: Any


class BlockInputs(NamedTuple):
    """What blocks take beside the keys and values of earlier tokens."""

    states: Any  # (batch, new, embedding_dim)
    masks: tuple[Any, ...]  # for each of `GPTConfig.attention_windows`, True at what is seen
    rotary: Any  # angles, or None


def ring_positions(lengths: Any, size: Any) -> Any:
    """Say which token of a row each place of a ring holds: token t is at place t modulo `size`.

    A ring that no row is longer than holds each token at the place of its own number.

    Args:
        lengths: (batch,) int32, how many tokens of each row went in.
        size: places of the ring; of a longer row it holds the last `size` tokens.

    Returns:
        (batch, size) int32, below 0 where a place is empty.
    """
    last = ops.expand_dims(lengths, 1) - 1
    return last - ops.mod(last - ops.expand_dims(ops.arange(size, dtype="int32"), 0), size)


def put_in_ring(old: KeyValues, new: KeyValues, lengths: Any, counts: Any) -> KeyValues:
    """Put the tokens that follow into a ring, each over the one that lies there.

    Args:
        old: rings; see `ring_positions`.
        new: what follows, from the first place on.
        lengths: (batch,) int32, how many tokens of each row went in before.
        counts: (batch,) int32, how many of the new places count.

    Returns:
        The new rings.
    """
    size = ops.shape(old.keys)[2]
    wanted = ring_positions(lengths + counts, size) - ops.expand_dims(lengths, 1)
    is_new = (wanted >= 0)[:, None, :, None]
    index = ops.clip(wanted, 0, ops.shape(new.keys)[2] - 1)[:, None, :, None]

    def put_in(old: Any, new: Any) -> Any:
        taken = ops.take_along_axis(ops.cast(new, old.dtype), index, axis=2)
        return ops.where(is_new, taken, old)

    return KeyValues(put_in(old.keys, new.keys), put_in(old.values, new.values))


def put(old: KeyValues, new: KeyValues, starts: Any) -> KeyValues:
    """Put new places into old ones, each row from its own start.

    Args:
        old: length places a row.
        new: fewer places a row; what would go beyond the old length is left out.
        starts: (batch,) int32, where each row's new places begin; not below 0.

    Returns:
        Keys and values of the old shape and dtype.
    """
    length, (rows, _, count, _) = ops.shape(old.keys)[2], new.keys.shape
    if old.keys.shape[0] == rows == count == 1:
        return _put_one(old, new, starts[0])
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


def _put_one(old: KeyValues, new: KeyValues, place: Any) -> KeyValues:
    """Put one place into those of one row, which XLA does where they lie."""
    last = ops.shape(old.keys)[2] - 1
    is_inside, at = place <= last, ops.minimum(place, last)

    def put_in(old: Any, new: Any) -> Any:
        # Of three axes: with that of rows XLA makes a copy more.
        old, new = ops.squeeze(old, 0), ops.squeeze(ops.cast(new, old.dtype), 0)
        # Not `slice`, see `generation.compiled`.
        new = ops.where(is_inside, new, ops.take(old, at[None], axis=1))
        return ops.expand_dims(ops.slice_update(old, (0, at, 0), new), 0)

    return KeyValues(put_in(old.keys, new.keys), put_in(old.values, new.values))
