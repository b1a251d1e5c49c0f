"""Say in the words of ``mpsr.errors`` what went wrong with a journal."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mpsr.errors import (
    Explanation,
    JournalDamaged,
    JournalDenied,
    JournalError,
    JournalFull,
    NewerJournal,
    NoJournal,
    NotAJournal,
)
from mpsr.system.calls import advice_for

if TYPE_CHECKING:
    from collections.abc import Iterator

_BY_ERRNO: Final[dict[int | None, type[JournalError]]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), JournalFull),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), JournalDenied),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), NoJournal),
}


ADVICE: Final[dict[int | None, str]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on its disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change the permissions or the user"),
    errno.EROFS: "choose a path on a file system that can be written",
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "check the path of the directory"),
    errno.EIO: "check the disk and its file system",
    errno.EFBIG: "raise the limit of the size of a file: ulimit -f",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
}


@contextmanager
def translating(doing: str, path: str) -> Iterator[None]:
    """Raise a JournalError for an OSError of the block."""
    try:
        yield
    except OSError as exc:
        raise of_system(doing, path, exc) from exc


def of_system(doing: str, path: str, exc: OSError) -> JournalError:
    """Return the error for what the system says."""
    kind = _BY_ERRNO.get(exc.errno, JournalError)
    advice = advice_for(exc) or ADVICE.get(exc.errno, "")
    text = Explanation(f"cannot {doing} {path}", exc.strerror or str(exc), advice)
    return kind(text, path=path)


def closed(doing: str, path: str, last: int) -> JournalError:
    """Return the error for descriptors that the program has closed."""
    why = (
        "the program has closed the descriptors of mpsr, which has unlocked it; the messages up to "
        f"position {last} are on the disk, and nothing was written after them"
    )
    advice = "open it after that"
    return JournalError(Explanation(f"cannot {doing} {path}", why, advice), path=path)


def damaged(path: str, why: str, position: int | None = None) -> JournalDamaged:
    """Return the error for what is not as it was written."""
    advice = "copy what can be read with: mpsr journal salvage"
    return JournalDamaged(
        Explanation(f"{path} is damaged", why, advice), path=path, position=position
    )


def unreadable(path: str, position: int) -> JournalDamaged:
    """Return the error for a message that cannot be read."""
    return damaged(path, f"position {position} cannot be read", position)


def replaced(path: str) -> NoJournal:
    """Return the error for a log that is no longer at the path where it was opened."""
    why = "another journal is at its path: it was replaced while it was read"
    error = Explanation(f"cannot read {path}", why, "read it again")
    return NoJournal(error, path=path)


def foreign(path: str, what: str) -> NotAJournal:
    """Return the error for what is no journal, or another's."""
    advice = f"choose another path ({path} was not changed)"
    error = Explanation(f"cannot open {path}", f"it {what}", advice)
    return NotAJournal(error, path=path)


def newer(path: str, version: int, known: int) -> NewerJournal:
    """Return the error for a format that is not known yet."""
    why = f"a later version of mpsr wrote it (format {version}, this one knows {known})"
    error = Explanation(f"cannot open {path}", why, "use that, or another path")
    return NewerJournal(error, path=path)
