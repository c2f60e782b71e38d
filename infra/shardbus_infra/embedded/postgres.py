"""The real Postgres as a child process, on the loopback interface, with a password of its own."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Self

from typing_extensions import override

from shardbus_infra.embedded.folder import DataFolder, closed_parent
from shardbus_infra.embedded.ports import HOST, refuse_used
from shardbus_infra.embedded.postgres_install import PostgresInstall, find_install
from shardbus_infra.embedded.process import Account, ServerProcess, launch_command, stop_left_behind, stop_orphan
from shardbus_infra.embedded.server import EmbeddedServer
from shardbus_infra.errors import DataFolderError, EmbeddedServerError

USER = "shardbus"
DATABASE = "shardbus"
UNPRIVILEGED = "nobody"
"""Who Postgres runs as if we are root: it refuses root, and initdb wants a user with an entry in the user list."""

STOP = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0))
"""Postgres' fast shutdown (sessions are cut, a checkpoint is written), then its immediate one."""

WHAT = "the embedded Postgres"

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # their paths are limited to 107 bytes, and the folder may be closed to the client
    "max_connections": "50",
    "shared_buffers": "96MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",  # the read model's queries are short
    "wal_level": "minimal",  # nobody replicates an embedded server
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "max_parallel_workers_per_gather": "0",  # needs /dev/shm, which containers keep small
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "shardbus",
}
SETTINGS_SINCE_18 = {"io_method": "sync"}  # the new default keeps three more processes


class EmbeddedPostgres(EmbeddedServer):
    """A Postgres server on ``data_dir``; a context manager.

    ``port`` 0 takes a free one, the same at every start of this object. What a server left behind by a killed owner
    still holds is stopped first, then started anew. As root the server runs as the owner of its data, ``nobody`` at
    first; the programs are copied into the data folder once if that user can not reach them where they are.
    Raises EmbeddedServerError and its kinds, with what to do.
    """

    def __init__(self, data_dir: Path, *, port: int = 0, start_timeout_seconds: float = 60) -> None:
        folder = DataFolder(Path(data_dir), kind="postgres", mode=0o711 if os.geteuid() == 0 else 0o700)
        super().__init__(folder, what=WHAT, port=port, stop=STOP)
        self._start_timeout_seconds = start_timeout_seconds
        self._password = ""

    @property
    def url(self) -> str:
        """The address for SQLAlchemy, with the password; raises EmbeddedServerError before the first start."""
        if not self._password:
            raise EmbeddedServerError("the embedded Postgres has no address before its first start")
        return f"postgresql+psycopg://{USER}:{self._password}@{HOST}:{self._port}/{DATABASE}"

    @override
    def start(self) -> Self:
        """Start the server, made anew where the folder is empty, and return when it lets clients in."""
        if self.pid:
            return self
        self.stop()  # what is left of a server that ended by itself
        install = find_install()
        account = self._account()
        if account:
            self._refuse_closed_parent(account)
        self._folder.open()
        try:
            self._stop_orphan()
            if self._asked_port:
                refuse_used(self._port, what=WHAT)
            if account and not install.reachable_by(account):
                install = install.copied_to(self._folder.path / "install")
            if not self._cluster.exists():
                self._initialise(install, account)
            self._refuse_other_version(install)
            self._password = self._password_file.read_text().strip()
            self._start_on_a_port(lambda: self._start_on_port(install, account))
        except OSError as error:
            self._folder.close()
            raise DataFolderError(
                f"can not prepare the data folder {self._folder.path}: {error.strerror} ({error.filename})"
            ) from error
        except BaseException:
            self._folder.close()
            raise
        return self

    @property
    def _cluster(self) -> Path:
        return self._folder.path / "data"

    @property
    def _password_file(self) -> Path:
        return self._folder.path / "password"

    @property
    def _log(self) -> Path:
        return self._folder.path / "server.log"

    def _stop_orphan(self) -> None:
        if pid := self._folder.server_pid:
            stop_orphan(pid, marks=("postgres", f"-D {self._cluster} "), polite=signal.SIGINT)
            self._folder.server_pid = None
        stop_left_behind(self._cluster.resolve())

    def _account(self) -> Account | None:
        """Return the user to run as; ``None`` is our own."""
        if os.geteuid() != 0:
            return None
        try:
            owner = self._cluster.stat().st_uid if self._cluster.exists() else 0
            entry = pwd.getpwuid(owner) if owner else pwd.getpwnam(UNPRIVILEGED)
        except KeyError as error:
            raise EmbeddedServerError(
                f"Postgres refuses to run as root, and this system has no other user for it ({error.args[0]}). "
                "Run shardbus as another user, or give the URL of a running Postgres in SHARDBUS_POSTGRES_URL."
            ) from error
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)

    def _refuse_closed_parent(self, account: Account) -> None:
        if closed := closed_parent(self._folder.path, account):
            raise DataFolderError(
                f"Postgres refuses to run as root, so it runs as {account.name}, who can not pass through {closed} to "
                f"the data folder {self._folder.path}. Choose another data folder with SHARDBUS_DATA_DIR (root's "
                f"default is /var/lib/shardbus), let others pass (chmod o+x {closed}), or run shardbus as another user."
            )

    def _refuse_other_version(self, install: PostgresInstall) -> None:
        major = (self._cluster / "PG_VERSION").read_text().strip()
        if major != str(install.major):
            raise DataFolderError(
                f"the data folder {self._folder.path} is of Postgres {major}, but the programs in {install.bin} are of "
                f"Postgres {install.major}. The read model can be rebuilt from the stream at any time: "
                f"{self._folder.way_out()} Or put the programs of Postgres {major} on PATH and remove the wheel."
            )

    def _initialise(self, install: PostgresInstall, account: Account | None) -> None:
        """Make the cluster beside its place, with a password and our database, then move it there in one step."""
        unfinished = self._folder.path / "data.unfinished"
        stop_left_behind(unfinished.resolve())
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_for_initdb = self._folder.path / "password.initdb"
        password = secrets.token_urlsafe(24)
        for path in (self._password_file, password_for_initdb):
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_text(password)
        if account:
            self._give_away((unfinished, password_for_initdb), account)
        try:
            self._run_to_end(
                account,
                install.bin / "initdb",
                *("-D", unfinished, "--username", USER, "--pwfile", password_for_initdb),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--data-checksums"),
            )
            self._run_to_end(
                account,
                install.bin / "postgres",
                *("--single", "-D", unfinished, "template1"),
                stdin=f"CREATE DATABASE {DATABASE}\n",
            )
        finally:
            password_for_initdb.unlink()
        unfinished.rename(self._cluster)

    def _give_away(self, paths: tuple[Path, ...], account: Account) -> None:
        try:
            for path in paths:
                os.chown(path, account.uid, account.gid)
        except OSError as error:
            raise EmbeddedServerError(
                f"Postgres refuses to run as root, and this root can not give {error.filename} to {account.name} "
                f"({error.strerror}), as in a container that maps one user only. Run shardbus as another user, or give "
                "the URL of a running Postgres in SHARDBUS_POSTGRES_URL."
            ) from error

    def _run_to_end(self, account: Account | None, *command: str | Path, stdin: str = "") -> None:
        words = [str(word) for word in command]
        answer = subprocess.run(
            launch_command(words, death_signal=signal.SIGKILL, account=account),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment(),
            check=False,
        )
        if answer.returncode != 0 or "ERROR:" in answer.stderr:  # single-user mode ends with 0 after an error
            raise EmbeddedServerError(
                f"can not make a database in {self._folder.path}: {words[0]} failed.\n{answer.stderr.strip()}"
            )

    def _start_on_port(self, install: PostgresInstall, account: Account | None) -> None:
        settings = {**SETTINGS, "port": str(self._port)} | (SETTINGS_SINCE_18 if install.major >= 18 else {})  # noqa: PLR2004
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        process = ServerProcess.start(
            WHAT,
            [str(install.bin / "postgres"), "-D", str(self._cluster), *options],
            log=self._log,
            death_signal=signal.SIGINT,
            account=account,
            environment=environment(),
        )
        try:
            self._folder.server_pid = process.pid
            process.wait_until(lambda: self._answers(process.pid), timeout_seconds=self._start_timeout_seconds)
        except BaseException:
            process.stop(STOP)
            self._folder.server_pid = None
            raise
        self._process = process

    def _answers(self, pid: int) -> bool:
        """Return whether our own server, and no stranger on its port, lets clients in."""
        try:
            words = (self._cluster / "postmaster.pid").read_text().split()
        except OSError:
            return False
        return words[:1] == [str(pid)] and lets_clients_in(self._port)


def lets_clients_in(port: int) -> bool:
    """Return whether a Postgres server on ``port`` asks a client to authenticate: it does not while it recovers."""
    names = f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
    startup = struct.pack("!ii", 8 + len(names), 3 << 16) + names  # protocol 3.0, a message without a type byte
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1) as connection:
        connection.sendall(startup)
        return connection.recv(1024).startswith(b"R")  # AuthenticationRequest; E would be an error
    return False


def environment() -> dict[str, str]:
    """Return our environment without what steers Postgres programs, in a locale that every system has."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}
