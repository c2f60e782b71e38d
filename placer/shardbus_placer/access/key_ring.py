"""The public keys that a placer trusts, read from files and read again when these change."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from shardbus_infra.errors import FileError
from shardbus_infra.files.document import read_text

from shardbus_placer.access.check import Access
from shardbus_placer.access.keys import PublicKey, by_name, public_keys_of

log = logging.getLogger(__name__)

_ENDINGS: Final = frozenset({".jwk", ".jwks", ".json"})
_Seen = tuple[tuple[str, int, int, int], ...]


class KeyRing:
    """The keys in a file (a JSON Web Key, or a set of them), or in the files of a folder; ``None``: no key at all.

    Raises FileError at the start for a file that cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = _looked_at(path)
        self._keys: Mapping[str, PublicKey] = {} if path is None else read_keys(path)

    def access(self, *, required: bool) -> Access:
        """Return what commands are checked with now."""
        return Access(self.keys(), required=required, where=None if self._path is None else str(self._path))

    def keys(self) -> Mapping[str, PublicKey]:
        """Return the keys of this moment by name. It costs a look at the files' times, so ask for each token.

        While the files cannot be used no key is trusted, and the log says why: one that was taken away to end what
        it granted must not live on because of a mistake in another file.
        """
        now = _looked_at(self._path)
        if self._path is not None and now != self._seen:
            self._seen = now
            try:
                self._keys = read_keys(self._path)
                log.info("read %d access keys from %s", len(self._keys), self._path)
            except FileError as error:
                self._keys = {}
                log.error("no access token is accepted until this is mended: %s", error)  # noqa: TRY400 -- a person's mistake
        return self._keys


def read_keys(path: Path) -> dict[str, PublicKey]:
    """Return the public keys of a file or folder by name; raises FileError."""
    return by_name((str(file), key) for file in _files(path) for key in public_keys_of(read_text(file), file=str(file)))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    try:
        yield from sorted(file for file in path.iterdir() if file.suffix in _ENDINGS)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error


def _looked_at(path: Path | None) -> _Seen:
    """Return what changes whenever a key is added, changed or removed."""
    if path is None:
        return ()
    seen: list[tuple[str, int, int, int]] = []
    try:
        for file in _files(path):
            found = file.stat()
            seen.append((str(file), found.st_mtime_ns, found.st_size, found.st_ino))
    except (OSError, FileError):
        seen.append(("gone", 0, 0, 0))
    return tuple(seen)
