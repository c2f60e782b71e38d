"""The data folder of an embedded server: whose it is, and when it is refused."""

import json
import os
import stat
from pathlib import Path

import pytest
from shardbus_infra.embedded.folder import LAYOUT_FILE, DataFolder, closed_parent
from shardbus_infra.embedded.process import Account
from shardbus_infra.errors import DataFolderError, DataFolderInUseError

STRANGER = Account("stranger", 54321, 54321)


def opened(path: Path, kind: str = "nats") -> DataFolder:
    folder = DataFolder(path, kind=kind)
    folder.open()
    return folder


def test_a_new_folder_is_made_with_its_parents_and_closed_to_others(tmp_path: Path) -> None:
    opened(tmp_path / "a" / "b").close()
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_it_is_opened_once_at_a_time_even_within_a_process(tmp_path: Path) -> None:
    first = opened(tmp_path / "data")
    with pytest.raises(DataFolderInUseError, match=rf"in use by process {os.getpid()} "):
        opened(tmp_path / "data")
    first.close()
    opened(tmp_path / "data").close()


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    mode = tmp_path.stat().st_mode
    with pytest.raises(DataFolderError, match=r"holds something else already \(thesis\.txt\)"):
        opened(tmp_path)
    assert tmp_path.stat().st_mode == mode
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_of_another_server_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "data", kind="postgres").close()
    with pytest.raises(DataFolderError, match="belongs to postgres, not to nats"):
        opened(tmp_path / "data", kind="nats")


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (0, r"layout 0, written by an older shardbus; .*Move the folder away \(mv "),
        (99, r"layout 99, written by a newer shardbus; .*Upgrade shardbus"),
    ],
)
def test_a_folder_of_another_version_is_refused_with_the_way_out(tmp_path: Path, layout: int, words: str) -> None:
    opened(tmp_path / "data").close()
    file = tmp_path / "data" / LAYOUT_FILE
    written = json.dumps({**json.loads(file.read_text()), "layout": layout})
    file.write_text(written)
    with pytest.raises(DataFolderError, match=words):
        opened(tmp_path / "data")
    assert file.read_text() == written


@pytest.mark.parametrize("text", ["", "{", "[1]", '"nats"', "\x00"])
def test_a_spoiled_layout_file_is_an_error_in_words(tmp_path: Path, text: str) -> None:
    opened(tmp_path / "data").close()
    (tmp_path / "data" / LAYOUT_FILE).write_text(text)
    with pytest.raises(DataFolderError):
        opened(tmp_path / "data")
    (tmp_path / "data" / LAYOUT_FILE).unlink()
    opened(tmp_path / "data").close()  # the refusal left no lock


def test_a_spoiled_pid_file_names_no_process(tmp_path: Path) -> None:
    folder = opened(tmp_path / "data")
    assert folder.server_pid is None
    folder.server_pid = 17
    assert folder.server_pid == 17
    (tmp_path / "data" / "server.pid").write_text("seventeen")
    assert folder.server_pid is None
    folder.server_pid = None
    assert not (tmp_path / "data" / "server.pid").exists()
    folder.close()


def test_the_first_closed_parent_is_found(folder_for_servers: Path) -> None:
    closed = folder_for_servers / "open" / "closed"
    (closed / "open").mkdir(parents=True)
    closed.chmod(0o700)
    closed.parent.chmod(0o755)
    (closed / "open").chmod(0o755)
    assert closed_parent(closed / "open" / "missing" / "file", STRANGER) == closed
    assert closed_parent(closed.parent / "file", STRANGER) is None
    assert closed_parent(closed / "open" / "file", Account("owner", os.geteuid(), os.getegid())) is None
