"""A driver library compiled for tests, whose every answer is a line in a file."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml_stub.c")

SYSTEM_NAME = "libnvidia-ml.so.1"
"""What the driver's library is called: a process that is started with its folder in LD_LIBRARY_PATH finds it."""


def build_stub(folder: Path, *defines: str, name: str = SYSTEM_NAME) -> Path:
    """Return the compiled library; skips the test where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (gcc or cc) to build the driver stub with")
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{name}"]
    command = [compiler, *options, *(f"-D{define}" for define in defines), "-o", str(folder / name), str(SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    return folder / name


class StubState:
    """The file that the stub reads at each call."""

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self._values: dict[str, str | int] = {}
        self.set()

    def set(self, **values: str | int) -> None:
        """Set what ``count``, ``init``, ``xid_code`` or ``gpu0_lost`` says; the file is replaced whole."""
        for name, value in values.items():
            dotted = name.startswith(("gpu", "xid_"))
            self._values[name.removeprefix("gpu").replace("_", ".", 1) if dotted else name] = value
        new = self.path.with_suffix(".new")
        new.write_text("".join(f"{name} {value}\n" for name, value in self._values.items()))
        new.replace(self.path)

    def raise_event(self, code: int, **values: str | int) -> None:
        """Let an XID happen, once."""
        count = int(self._values.get("xid.seq", 0)) + 1
        self.set(**{"xid_code": code, **values})
        self.set(xid_seq=count)
