"""Folders that embedded servers of tests can use.

As root, pytest's ``tmp_path`` lies below a folder that nobody else may enter, and Postgres runs as somebody else.
"""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def server_folder() -> Generator[Path]:
    """Yield a new empty folder that every user may pass through; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="shardbus-test-"))
    try:
        folder.chmod(0o711)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
