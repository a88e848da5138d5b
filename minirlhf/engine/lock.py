"""One process writes a folder at a time."""

import contextlib
from pathlib import Path

from filelock import FileLock, Timeout

from minirlhf.engine.records import DataError


class WriteLock:
    """Held by the one process that writes `folder`, from now until `release` or its end.

    The operating system holds it for the process, so a killed one leaves none. The lock's file
    lies beside the folder, which need not be there yet.
    Raises:  DataError, one line, where another process holds it, or no file can be made there.
    """

    def __init__(self, folder: str | Path):
        name = Path(folder).resolve()
        self._path = name.with_name(f".{name.name}.lock")
        self._made_parent = not name.parent.exists()
        try:
            name.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._path, timeout=0)
            self._lock.acquire()
        except Timeout:
            raise DataError(f"{folder}: another process is writing there") from None
        except OSError as error:
            raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from None

    def release(self) -> None:
        """Let others write, and leave no trace."""
        if not self._lock.is_locked:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()  # first: whoever waits for a file without a name takes a new one
            if self._made_parent:
                self._path.parent.rmdir()  # if nothing was written after all
        self._lock.release()

    def __enter__(self) -> "WriteLock":
        return self

    def __exit__(self, *exception) -> None:
        self.release()
