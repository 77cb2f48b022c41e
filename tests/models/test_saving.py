"""Keeping a model in a `.keras` file, whole or not at all."""

import keras
import numpy as np
import pytest

from keras_gpt import GPT


def _gpt(seed: int) -> GPT:
    keras.utils.set_random_seed(seed)
    return GPT(np.int64(40), 16, 2, 32, 1, context_length=8)


def test_a_save_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "gpt.keras"
    first = _gpt(1)
    first.save(path)
    before = path.read_bytes()

    def full_disk(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.layers.Dense, "save_own_variables", full_disk)
    with pytest.raises(OSError, match="No space left"):
        _gpt(2).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["gpt.keras"]


def test_a_saved_model_is_the_same_to_the_bit(tmp_path):
    gpt = _gpt(1)
    gpt.save(tmp_path / "gpt.keras")
    again = keras.saving.load_model(tmp_path / "gpt.keras")
    for ours, theirs in zip(gpt.weights, again.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        )
