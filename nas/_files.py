"""Writing files so that nothing written before is ever lost: to a temporary name first, then renamed."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.errors import StorageError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; whatever the caller makes there, file or folder, replaces `path` at the end.

    A folder is never replaced by a file. If the body fails, `path` is left as it was and the temporary is removed.

    Raises:
        StorageError: the system refused to write (no space, no permission, ...).
    """
    target = Path(path)
    folder = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        temporary = folder / target.name
        yield temporary
        _swap_in(temporary, target, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {target}: {reason}; what was there before is unchanged") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what `replacing(path)` left behind where its process was killed; nobody may be writing `path` now."""
    target = Path(path)
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def unfinished_beside(path: str | os.PathLike[str], ending: str) -> Iterator[Path]:
    """Give the path of a file beside `path` for work that is not done yet; it is removed when it is.

    If the body fails, the file is left, to go on from.
    """
    target = Path(path)
    unfinished = target.with_name(f"{target.name}.{ending}")
    yield unfinished
    unfinished.unlink(missing_ok=True)


def _swap_in(temporary: Path, target: Path, folder: Path) -> None:
    # A folder that is not empty cannot be replaced in one rename: move it aside first, back if the second fails.
    if not target.is_dir():
        os.replace(temporary, target)
        return
    if not temporary.is_dir():
        raise _is_a_folder(target)
    aside = folder / "previous"
    os.replace(target, aside)
    try:
        os.replace(temporary, target)
    except OSError:
        os.replace(aside, target)
        raise


def _is_a_folder(target: Path) -> OSError:
    return IsADirectoryError(errno.EISDIR, "there is a folder of that name", str(target))


def require_writable(path: str | os.PathLike[str]) -> None:
    """Find out before long work whether its result, a file, can be written to `path`.

    Raises:
        StorageError: it cannot.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise _is_a_folder(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error


def write_text_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8: readers see the old file or the new one, never half of one."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
