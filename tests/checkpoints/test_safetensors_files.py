"""Our safetensors files beside the library's own reader and writer, and what they take of memory."""

import hashlib
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from keras_gpt.checkpoints.checkpoint import ModelTensor
from keras_gpt.checkpoints.safetensors_files import open_safetensors, write_safetensors

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int8", "uint16", "bool"]


def _outgoing(values: dict[str, np.ndarray]) -> dict[str, ModelTensor]:
    return {
        name: ModelTensor(value.shape, value.dtype.name, lambda value=value: value)
        for name, value in values.items()
    }


def _assert_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert value.shape == second[name].shape
        assert value.tobytes() == second[name].tobytes()


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)),
        max_size=6,
    ),
    st.integers(0, 2**32 - 1),
)
def test_what_we_write_the_library_reads_and_the_reverse(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: dict[str, tuple[str, list[int]]],
    seed: int,
) -> None:
    """Any names, kinds of numbers and shapes; scalars and empty ones too."""
    rng = np.random.default_rng(seed)
    values = {
        name: np.asarray(10 * rng.normal(size=shape)).astype(dtype)
        for name, (dtype, shape) in shapes.items()
    }
    folder = tmp_path_factory.mktemp("safetensors")
    digest = write_safetensors(folder / "ours", _outgoing(values), format="keras_gpt")
    assert digest == hashlib.sha256((folder / "ours").read_bytes()).hexdigest()
    _assert_equal(load_file(folder / "ours"), values)
    save_file(values, folder / "theirs")
    for file in ("ours", "theirs"):
        opened = open_safetensors([folder / file])
        _assert_equal({name: tensor.read() for name, tensor in opened.items()}, values)
        assert {name: tensor.shape for name, tensor in opened.items()} == {
            name: value.shape for name, value in values.items()
        }


def test_a_kind_of_number_that_is_not_a_weight_is_named(tmp_path: Path) -> None:
    """Exponents alone, as the scales of newer formats are kept."""
    save_file({"w": np.zeros((4, 4), ml_dtypes.float8_e8m0fnu)}, tmp_path / "file")
    with pytest.raises(ValueError, match=r"w with F8_E8M0"):
        open_safetensors([tmp_path / "file"])


def test_writing_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Eight tensors of 4 MB each take the memory of one."""
    size = 1 << 20
    tensors = {
        str(index): ModelTensor((size,), "float32", lambda index=index: np.full(size, index, "f4"))
        for index in range(8)
    }
    tracemalloc.start()
    write_safetensors(tmp_path / "file", tensors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * 4 * size


def test_what_is_done_with_a_value_does_not_reach_the_file(tmp_path: Path) -> None:
    """The values are views of the file, which stays as it is."""
    write_safetensors(tmp_path / "file", _outgoing({"w": np.zeros(8, "float32")}))
    before = (tmp_path / "file").read_bytes()
    open_safetensors([tmp_path / "file"])["w"].read()[:] = 1
    assert (tmp_path / "file").read_bytes() == before
    assert not open_safetensors([tmp_path / "file"])["w"].read().any()
