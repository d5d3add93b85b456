from __future__ import annotations

import errno
import shutil

import pytest

from nas._files import remove_leftovers, replacing, require_writable, unfinished_beside, write_text_atomically
from nas.errors import StorageError


def fail_half_way(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise error


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text_atomically(path, "old")
    with pytest.raises(StorageError, match=r"cannot write .*No space left on device"):
        fail_half_way(path, OSError(errno.ENOSPC, "No space left on device"))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_any_other_error_leaves_the_old_file_too(tmp_path):
    path = tmp_path / "file.txt"
    write_text_atomically(path, "old")
    with pytest.raises(ZeroDivisionError):
        fail_half_way(path, ZeroDivisionError())
    assert path.read_text() == "old"


def test_folders_are_replaced_whole(tmp_path):
    target = tmp_path / "folder"
    for content in ("one", "two"):
        with replacing(target) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [p.name for p in target.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_file_never_replaces_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    for write in (require_writable, lambda path: write_text_atomically(path, "text")):
        with pytest.raises(StorageError, match="there is a folder of that name"):
            write(tmp_path / "folder")
    assert [p.name for p in tmp_path.rglob("*")] == ["folder", "precious"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        write_text_atomically(tmp_path / "file" / "below", "text")


def test_what_cannot_be_written_is_known_before(tmp_path):
    require_writable(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "blocked").touch()
    with pytest.raises(StorageError, match="cannot write"):
        require_writable(tmp_path / "blocked" / "file")


def test_what_a_killed_process_left_is_removed(tmp_path):
    target, other = tmp_path / "run[1].pt", tmp_path / ".run1.pt.x"
    target.write_text("kept")
    other.mkdir()
    with replacing(target) as temporary:
        temporary.write_text("new")
        # As if it were killed here: what it wrote stays, beside the file.
        shutil.copytree(temporary.parent, tmp_path / f"{temporary.parent.name}x")
    assert len(list(tmp_path.iterdir())) == 3
    remove_leftovers(target)
    assert set(tmp_path.iterdir()) == {target, other}


def test_unfinished_work_is_kept_until_it_is_finished(tmp_path):
    def work(text, *, fails):
        with unfinished_beside(tmp_path / "table.yaml", "visits") as unfinished:
            before = unfinished.read_text() if unfinished.exists() else ""
            unfinished.write_text(before + text)
            if fails:
                raise KeyboardInterrupt
            (tmp_path / "table.yaml").write_text(before + text)

    with pytest.raises(KeyboardInterrupt):
        work("half ", fails=True)
    assert [path.name for path in tmp_path.iterdir()] == ["table.yaml.visits"]
    work("the rest", fails=False)
    assert [path.name for path in tmp_path.iterdir()] == ["table.yaml"]
    assert (tmp_path / "table.yaml").read_text() == "half the rest"
