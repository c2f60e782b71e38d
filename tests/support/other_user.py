"""Running a piece of a test as somebody who is not root."""

import os
import pwd
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from shardbus_infra.embedded.folder import closed_parent
from shardbus_infra.embedded.process import Account


def nobody() -> Account:
    """Return the account of ``nobody``."""
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def not_as_root(folder: Path, piece: Callable[[], None]) -> None:
    """Call ``piece``, which may use ``folder``, as a user who is not root; in a forked child if we are root.

    Skips where that user can not reach what a server needs: a clone, or every Python, below a closed home folder.
    """
    if os.geteuid() != 0:
        piece()
        return
    account = nobody()
    # The trampoline of a server runs on any Python 3; ours may be below root's home.
    pythons = [sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin:/opt/bin")]
    python = next((found for found in pythons if found and not closed_parent(Path(found), account)), None)
    if not python or closed_parent(Path(__file__), account):
        pytest.skip(f"user {account.name} can not reach {__file__ if python else 'any Python'}")
    os.chown(folder, account.uid, account.gid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork of a process with threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            sys.executable = python
            piece()
            status = 0
        except BaseException:  # noqa: BLE001 -- the child must never return into pytest
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "failed as another user, see stderr"
