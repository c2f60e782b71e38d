"""A server's data folder: who may use it, which layout it has, and which process runs on it."""

import fcntl
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from shardbus_infra.embedded.process import Account, command_line
from shardbus_infra.errors import DataFolderError, DataFolderInUseError

LAYOUT = 1
"""Raise it when files inside a data folder move, and say in ``_check_layout`` how to get from the old one."""

LAYOUT_FILE = "shardbus.json"
LOCK_FILE = "lock"
PID_FILE = "server.pid"


def closed_parent(path: Path, account: Account) -> Path | None:
    """Return the first existing folder above ``path`` that ``account`` may not pass through, by its mode bits."""
    for parent in reversed(path.resolve().parents):
        if parent.exists() and not _may(parent, account, owner=stat.S_IXUSR, group=stat.S_IXGRP, other=stat.S_IXOTH):
            return parent
    return None


def may_read(path: Path, account: Account) -> bool:
    """Return whether the mode bits let ``account`` read the file itself; its parents are another question."""
    return _may(path, account, owner=stat.S_IRUSR, group=stat.S_IRGRP, other=stat.S_IROTH)


def _may(path: Path, account: Account, *, owner: int, group: int, other: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & owner)
    if status.st_gid == account.gid:
        return bool(status.st_mode & group)
    return bool(status.st_mode & other)


@dataclass(slots=True)
class DataFolder:
    """The folder of one server, locked while it is open.

    The lock is the owner's (the process that started the server), so it ends with the owner whatever happens to it.
    """

    path: Path
    kind: str
    """What runs on it, for example ``nats``."""
    mode: int = 0o700
    _lock: IO[str] | None = None

    def __post_init__(self) -> None:
        self.path = self.path.expanduser().absolute()

    def open(self) -> None:
        """Create the folder where needed, lock it and check that it is ours, of this layout.

        Raises DataFolderInUseError if another owner holds it, DataFolderError for everything else.
        """
        try:
            self._create()
            self._lock = self._locked()
        except OSError as error:
            raise DataFolderError(
                f"can not write to the data folder {self.path}: {error.strerror} ({error.filename}). "
                "Choose another one with SHARDBUS_DATA_DIR, or make it writable for this user."
            ) from error
        try:
            self._check_layout()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the lock back. Idempotent."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def way_out(self) -> str:
        """Return what helps with any folder that can not be used, as the end of an error message."""
        return f"Move the folder away (mv {self.path} {self.path}.old); a new one is made at the next start."

    @property
    def server_pid(self) -> int | None:
        """The process of the last server here, alive or not."""
        try:
            return int((self.path / PID_FILE).read_text())
        except (OSError, ValueError):
            return None

    @server_pid.setter
    def server_pid(self, pid: int | None) -> None:
        if pid is None:
            (self.path / PID_FILE).unlink(missing_ok=True)
        else:
            (self.path / PID_FILE).write_text(f"{pid}\n")

    def _create(self) -> None:
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir()
            # Parents that root makes are to be passable for the user a server runs as, whatever the umask.
            folder.chmod(self.mode if folder == self.path else 0o755 if os.geteuid() == 0 else 0o700)
        if not self.path.is_dir():
            raise DataFolderError(f"the data folder {self.path} is a file. Choose a folder with SHARDBUS_DATA_DIR.")
        if not (self.path / LAYOUT_FILE).exists():
            strangers = sorted(entry.name for entry in self.path.iterdir() if entry.name != LOCK_FILE)
            if strangers:
                raise DataFolderError(
                    f"the folder {self.path} holds something else already ({', '.join(strangers[:3])}). "
                    "Choose an empty or a new folder with SHARDBUS_DATA_DIR."
                )
        self.path.chmod(self.mode)  # it is ours, or empty and about to be

    def _locked(self) -> IO[str]:
        lock = (self.path / LOCK_FILE).open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            lock.close()
            who = f"process {owner} ({command_line(int(owner))[:120]})" if owner.isdigit() else "another process"
            raise DataFolderInUseError(
                f"the data folder {self.path} is in use by {who}. Stop it, use its server by URL, or choose another "
                "data folder with SHARDBUS_DATA_DIR."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        return lock

    def _check_layout(self) -> None:
        layout_file = self.path / LAYOUT_FILE
        if not layout_file.exists():
            document = {"product": "shardbus", "kind": self.kind, "layout": LAYOUT}
            written = layout_file.with_suffix(".new")
            written.write_text(json.dumps(document, indent=2) + "\n")
            written.replace(layout_file)
            return
        try:
            found = json.loads(layout_file.read_text())
        except (OSError, ValueError) as error:
            raise DataFolderError(f"can not read {layout_file}: {error}. {self.way_out()}") from error
        known = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        kind, layout = known.get("kind"), known.get("layout")
        if kind != self.kind:
            raise DataFolderError(f"the data folder {self.path} belongs to {kind}, not to {self.kind}. Choose another.")
        if layout != LAYOUT:
            newer = isinstance(layout, int) and layout > LAYOUT
            raise DataFolderError(
                f"the data folder {self.path} has layout {layout}, written by {'a newer' if newer else 'an older'} "
                f"shardbus; this one knows layout {LAYOUT}. "
                f"{'Upgrade shardbus, or start anew: ' if newer else ''}{self.way_out()}"
            )
