"""Which version folders count, and which of them are wanted."""

from pathlib import Path

import pytest

from keras_gpt.serving.versions import ModelEntry, find_models, version_folders


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    for name in ("1", "2", "010", "-3", "4a", "٣", "1" * 19, "9" * 19, "9" * 25):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "7").write_text("a file")
    return tmp_path / "m"


def test_folders_whose_names_are_64_bit_numbers(base_path: Path) -> None:
    assert list(version_folders(base_path)) == [int("1" * 19), 10, 2, 1]
    assert version_folders(base_path)[10].name == "010"


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ({}, [10]),
        ({"latest": 2}, [10, 2]),
        ({"latest": 9}, [10, 2, 1]),
        ({"latest": None}, [10, 2, 1]),
        ({"specific": frozenset([1, 2, 5])}, [2, 1]),
    ],
)
def test_policies(base_path: Path, policy: dict, wanted: list[int]) -> None:
    (base_path / ("1" * 19)).rmdir()
    assert list(ModelEntry("m", base_path, **policy).wanted()) == wanted


def test_models_of_a_folder(tmp_path: Path, base_path: Path) -> None:
    (tmp_path / ".aside" / "1").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    models, others = find_models(tmp_path)
    assert models == [ModelEntry("m", base_path)]
    assert others == [tmp_path / "notes"]
