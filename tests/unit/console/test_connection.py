"""Finding the servers that ``shardbus up`` runs: by what it wrote into its data folder, if it still runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shardbus_console.connection import announce, settings_for
from shardbus_infra.settings import CommonSettings

NATS, POSTGRES = "nats://127.0.0.1:20001", "postgresql+psycopg://shardbus:secret@127.0.0.1:20002/shardbus"
URLS = {"nats_url": NATS, "postgres_url": POSTGRES}
DEFAULT = "nats://127.0.0.1:4222"


@pytest.fixture(autouse=True)
def _nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SHARDBUS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SHARDBUS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def test_what_runs_here_is_found(tmp_path: Path) -> None:
    announce(tmp_path / "data", URLS)
    settings = settings_for(CommonSettings)
    assert (settings.nats_url, settings.postgres_url) == (NATS, POSTGRES)


def test_only_its_user_can_read_the_password(tmp_path: Path) -> None:
    file = announce(tmp_path / "data", URLS)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_later_start_replaces_what_an_earlier_one_wrote_and_follows_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "running.json").symlink_to(victim)
    announce(tmp_path / "data", URLS)
    assert victim.read_text() == "mine"
    assert settings_for(CommonSettings).nats_url == NATS


def test_flags_and_environment_win_over_what_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(tmp_path / "data", URLS)
    assert settings_for(CommonSettings, nats_url="nats://elsewhere:1").nats_url == "nats://elsewhere:1"
    monkeypatch.setenv("SHARDBUS_NATS_URL", "nats://further:2")
    settings = settings_for(CommonSettings)
    assert (settings.nats_url, settings.postgres_url) == ("nats://further:2", POSTGRES)


def test_without_anything_the_default_is_taken() -> None:
    assert settings_for(CommonSettings).nats_url == DEFAULT


def test_what_a_dead_process_wrote_is_not_believed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    file = announce(tmp_path / "data", URLS)
    file.write_text(json.dumps({"pid": ended.pid, **URLS}))
    assert settings_for(CommonSettings).nats_url == DEFAULT


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no JSON",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"{}",
        b'{"pid": 1}',
        b'{"pid": 0, "nats_url": "nats://a:1", "postgres_url": "b"}',
        b'{"pid": -1, "nats_url": "nats://a:1", "postgres_url": "b"}',
        b'{"pid": 99999999999999999999, "nats_url": "nats://a:1", "postgres_url": "b"}',
        b'{"pid": "x", "nats_url": "nats://a:1", "postgres_url": "b"}',
    ],
)
def test_what_is_not_ours_is_not_believed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "running.json").write_bytes(content)
    assert settings_for(CommonSettings).nats_url == DEFAULT


def test_a_folder_in_place_of_the_file_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "data" / "running.json").mkdir(parents=True)
    assert settings_for(CommonSettings).nats_url == DEFAULT
