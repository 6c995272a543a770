"""A folder of one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FolderLock:
    """A lock on ``FOLDER/.lock``, which is removed when it is released; the system releases it for a killed process.

    Args:
        folder: Must exist when it is locked.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def acquire(self) -> bool:
        """Takes the lock, or returns False where another process has it.

        Taking it again, of a folder that came in the place of the one that was locked, lets go of the old one.

        Raises:
            OSError: The file cannot be made, or the file system has no locks.
        """
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return False
                raise
            # Between these two calls its last owner may have removed the file. A lock on a file that nobody else can
            # open any more keeps nobody out, so it is tried again with the file that is there now.
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Removes the file while it is still locked, so that it is certainly this process's, and lets go of it."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
