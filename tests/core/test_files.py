"""Files are whole or not there; what the system refuses is said in words."""

import errno
import os
import pathlib

import pytest

from mmjax.core import files
from mmjax.core.errors import UserError


def test_contents_and_names(tmp_path):
    files.write_text(tmp_path / "a.txt", "ä\n")
    files.write_bytes(str(tmp_path / "b.bin"), b"\0\1")
    files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_bytes() == b"new" and (tmp_path / "b.bin").read_bytes() == b"\0\1"
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt", "b.bin"}


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_what_was_there_stays(moment, tmp_path, monkeypatch):
    """Killed or out of space at any moment: the old content, and nothing beside it."""
    files.write_text(tmp_path / "a", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if moment == "fsync" else pathlib.Path, moment, full)
    with pytest.raises(UserError) as error:
        files.write_text(tmp_path / "a", "new")
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'a'} could not be written: No space left on device (")
    assert "MB are free); free or allow more space there" in text
    assert (tmp_path / "a").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("make", "name", "text"),
    [
        (lambda folder: (folder / "file").write_text(""), "file/more", "Not a directory; a file stands where a folder"),
        (lambda folder: (folder / "file").write_text(""), "file", "File exists; a file stands where a folder"),
        (lambda folder: None, "x" * 300, "File name too long; name another place"),
    ],
)
def test_folders(make, name, text, tmp_path):
    make(tmp_path)
    with pytest.raises(UserError, match=text):
        files.make_folder(tmp_path / name)


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UserError, match="Permission denied; name a place in which you may write"):
        files.make_folder(tmp_path)


def test_folders_above_are_made(tmp_path):
    assert files.make_folder(tmp_path / "a" / "b").is_dir()
