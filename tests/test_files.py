import os
from pathlib import Path

import pytest

from keras_gpt import files
from keras_gpt.files import require_free_file, whole_file, whole_folder


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_file_appears_at_the_end(tmp_path):
    target = tmp_path / "new" / "a.keras"
    with whole_file(target) as scratch:
        assert scratch.suffix == ".keras"
        assert scratch.parent == target.parent
        scratch.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == ["a.keras"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError("no")])
def test_file_stays_as_it_was_when_writing_fails(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), whole_file(target) as scratch:  # noqa: PT012
        scratch.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_file_that_the_block_forgot(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(target):
        pass
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_file_replaces_the_old_one(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with whole_file(str(target)) as scratch:
        scratch.write_text("new")
    assert target.read_text() == "new"


def test_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "deep" / "model"
    with whole_folder(target) as scratch:
        (scratch / "sub").mkdir()
        (scratch / "sub" / "x").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "x").read_text() == "1"
    assert names(target.parent) == ["model"]
    assert os.stat(target).st_mode & 0o055 == 0o055  # others may read it, as any new folder


def test_folder_that_holds_something_is_refused_before_any_work(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "precious").write_text("x")
    worked = False
    refused = pytest.raises(FileExistsError, match=r"overwrite=True.*Received: path=")
    with refused, whole_folder(target):
        worked = True
    assert not worked
    assert names(tmp_path) == ["model"]
    assert names(target) == ["precious"]


def test_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("x")
    with whole_folder(target, overwrite=True) as scratch:
        (scratch / "new").write_text("y")
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["model"]


def test_empty_folder_needs_no_overwrite(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    with whole_folder(target) as scratch:
        (scratch / "new").write_text("y")
    assert names(target) == ["new"]


def test_folder_stays_as_it_was_when_writing_fails(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("x")
    full = pytest.raises(OSError, match="full")
    with full, whole_folder(target, overwrite=True) as scratch:
        (scratch / "new").write_text("half")
        raise OSError("disk full")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["model"]


def test_folder_comes_back_when_the_last_rename_fails(tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("x")
    rename = os.rename

    def failing(source, destination):
        if Path(destination) == target and ".aside-" in str(source):
            raise OSError("no")
        rename(source, destination)

    monkeypatch.setattr(files.os, "rename", failing)
    with pytest.raises(OSError, match="no"), whole_folder(target, overwrite=True) as scratch:
        (scratch / "new").write_text("y")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["model"]


def test_folder_where_a_file_stands(tmp_path):
    target = tmp_path / "model"
    target.write_text("a file")
    with pytest.raises(NotADirectoryError, match="Received"), whole_folder(target, overwrite=True):
        pass
    assert target.read_text() == "a file"


def test_a_place_for_a_file_is_checked_and_left_as_it_was(tmp_path):
    require_free_file(tmp_path / "new" / "folder" / "a.json")
    assert names(tmp_path) == []
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"Received: .*a\.json"):
        require_free_file(tmp_path / "a.json")
    require_free_file(tmp_path / "a.json", overwrite=True)
    with pytest.raises(IsADirectoryError, match="a folder stands there"):
        require_free_file(tmp_path, overwrite=True)
    with pytest.raises(OSError, match=r"a\.json"):
        require_free_file(tmp_path / "a.json" / "in" / "file")
    assert (tmp_path / "a.json").read_text() == "mine"
