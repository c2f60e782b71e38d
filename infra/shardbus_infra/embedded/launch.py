"""A trampoline that becomes a server: drops privileges, asks to die with its owner, and executes the command.

Run as a script: ``launch.py OWNER_PID SIGNAL UID GID COMMAND...``; a UID of -1 keeps the user. It exists because all
three steps must happen in the child, in this order (a change of user clears the death signal), and because Python code
between fork and exec (``preexec_fn``) may deadlock in a process with threads.
"""

import os
import sys

PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``."""


def drop_privileges(uid: int, gid: int) -> None:
    """Become ``uid`` for good, with no group but ``gid``."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with_owner(owner_pid: int, death_signal: int) -> None:
    """Have the kernel send this process ``death_signal`` when the thread that started it ends; Linux only."""
    if sys.platform != "linux":
        return
    try:
        # Imported here: a Python built without libffi has no ctypes, and the pid file still recovers the orphan.
        import ctypes  # noqa: PLC0415
    except ImportError:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != owner_pid:  # it died before we asked
        sys.exit(1)


def main(arguments: list[str]) -> None:
    """Do the three steps; returns never, exits with 126 where the user can not be changed and 127 without command."""
    owner_pid, death_signal, uid, gid = (int(argument) for argument in arguments[:4])
    command = arguments[4:]
    try:
        if uid >= 0:
            drop_privileges(uid, gid)
    except OSError as error:
        sys.stderr.write(f"can not run as user {uid}, group {gid}: {error.strerror}\n")
        sys.exit(126)
    die_with_owner(owner_pid, death_signal)
    try:
        os.execv(command[0], command)  # noqa: S606 -- no shell is wanted
    except OSError as error:
        sys.stderr.write(f"can not execute {command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
