"""A trampoline that becomes a server: drops privileges, asks to die with its owner, and executes the command.

Run as a script: ``launch.py OWNER_PID SIGNAL UID GID COMMAND...``; a UID of -1 keeps the user. It exists because all
three steps must happen in the child, in this order (a change of user clears the death signal), and because Python code
between fork and exec (``preexec_fn``) may deadlock in a process with threads.
"""

import contextlib
import os
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``."""


def drop_privileges(uid: int, gid: int) -> None:
    """Become ``uid`` for good, with no group but ``gid``."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def death_signal_setter() -> Callable[[int], object]:
    """Return what has the kernel send this process a signal when the thread that started it ends; Linux only."""
    if sys.platform == "linux":
        # A Python built without libffi has no ctypes; then the pid file recovers the orphan.
        with contextlib.suppress(ImportError):
            import ctypes  # noqa: PLC0415

            prctl = ctypes.CDLL(None).prctl
            return lambda number: prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    return lambda _: None


def main(arguments: list[str]) -> None:
    """Do the three steps; returns never, exits with 126 where the user can not be changed and 127 without command."""
    owner_pid, death_signal, uid, gid = (int(argument) for argument in arguments[:4])
    command = arguments[4:]
    # Fetched first: the user we become may not be able to read the Python installation.
    set_death_signal = death_signal_setter()
    try:
        if uid >= 0:
            drop_privileges(uid, gid)
    except OSError as error:
        sys.stderr.write(f"can not run as user {uid}, group {gid}: {error.strerror}\n")
        sys.exit(126)
    set_death_signal(death_signal)
    if os.getppid() != owner_pid:  # it died before we asked
        sys.exit(1)
    try:
        os.execv(command[0], command)  # noqa: S606 -- no shell is wanted
    except OSError as error:
        sys.stderr.write(f"can not execute {command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
