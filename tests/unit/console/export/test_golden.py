"""The exported files as a person reads them: a change of any is seen in review."""

from support.exporting import GOLDEN
from support.golden_exports import exports


def test_exported_files_are_those_that_were_reviewed() -> None:
    for runtime, files in exports():
        reviewed = {file.name: file.read_text() for file in (GOLDEN / runtime).iterdir()}
        assert dict(files) == reviewed, f"{runtime}: see tests/support/golden_exports.py"
