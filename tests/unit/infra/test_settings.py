"""Where a setting comes from, which one wins, and what a mistake is told."""

import os
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel, SecretStr, ValidationError
from shardbus_infra.errors import SettingsError
from shardbus_infra.settings import CommonSettings, default_data_folder, hide_passwords


class Weights(BaseModel):
    compute: float = 0.4


class CookSettings(CommonSettings):
    """How another process extends the common settings."""

    section: ClassVar[str] = "agent"

    interval_seconds: float = 2
    weights: Weights = Weights()
    access_token: SecretStr | None = None


@pytest.fixture(autouse=True)
def nothing_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("SHARDBUS_")]:
        monkeypatch.delenv(name)


def write(text: str, name: str = "shardbus.toml") -> Path:
    file = Path(name)
    file.write_text(text)
    return file


def test_without_anything_the_defaults_hold() -> None:
    settings = CommonSettings()
    assert settings.nats_url == "nats://127.0.0.1:4222"
    assert settings.otel_exporter == "none"
    assert settings.prometheus_host == "127.0.0.1"
    assert settings.model_fields_set == set()


def test_flags_win_over_environment_over_section_over_top_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        'log_level = "error"\nlog_format = "json"\nnats_url = "nats://top"\notlp_endpoint = "http://top"\n'
        '[agent]\nlog_format = "text"\nnats_url = "nats://section"\notlp_endpoint = "http://section"\n'
        '[placer]\nnats_url = "nats://of-another-process"\n'
    )
    monkeypatch.setenv("SHARDBUS_OTLP_ENDPOINT", "http://environment")
    monkeypatch.setenv("SHARDBUS_NATS_URL", "nats://environment")
    settings = CookSettings(nats_url="nats://flag")
    assert settings.nats_url == "nats://flag"
    assert settings.otlp_endpoint == "http://environment"
    assert settings.log_format == "text"
    assert settings.log_level == "error"
    assert settings.prometheus_port == 9464
    assert CommonSettings().log_format == "json"


def test_the_file_can_be_named_and_must_then_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    write("prometheus_port = 1")
    monkeypatch.setenv("SHARDBUS_CONFIG", str(write("prometheus_port = 2", "other.toml")))
    assert CommonSettings().prometheus_port == 2
    monkeypatch.setenv("SHARDBUS_CONFIG", "missing.toml")
    with pytest.raises(SettingsError, match=r"SHARDBUS_CONFIG names missing\.toml, but there is no such file"):
        CommonSettings()


def test_a_process_has_settings_of_its_own_structured_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[agent]\ninterval_seconds = 5\n[agent.weights]\ncompute = 0.5\n")
    assert (CookSettings().interval_seconds, CookSettings().weights.compute) == (5, 0.5)
    monkeypatch.setenv("SHARDBUS_WEIGHTS", '{"compute": 0.7}')
    assert CookSettings().weights.compute == 0.7
    monkeypatch.setenv("SHARDBUS_WEIGHTS", "{compute")
    with pytest.raises(SettingsError, match="weights"):
        CookSettings()


def test_settings_do_not_change() -> None:
    settings = CommonSettings()
    with pytest.raises(ValidationError):
        settings.log_level = "debug"  # pyright: ignore[reportAttributeAccessIssue] -- that is the point


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('nats_ulr = "x"', r"shardbus\.toml: unknown key nats_ulr; did you mean nats_url\?"),
        ("[agnet]\nx = 1", r"shardbus\.toml: unknown key agnet; did you mean agent\?"),
        (
            "[agent]\nintervall_seconds = 1",
            r"\[agent\]: unknown key intervall_seconds; did you mean interval_seconds\?",
        ),
        ("interval_seconds = 1", r"unknown key interval_seconds; it belongs into the table \[agent\]"),
        ("zzz = 1", r"unknown key zzz; known are .*nats_url"),
        ("agent = 1", r"agent is to be a table"),
        ("prometheus_port = 'many'", r"shardbus\.toml, prometheus_port: Input should be a valid integer.*got 'many'"),
        ("[agent]\nprometheus_port = 0", r"shardbus\.toml, \[agent\] prometheus_port: .*greater than or equal to 1"),
        ("[agent.weights]\ncompute = 'x'", r"shardbus\.toml, \[agent\] weights at compute: "),
        ("nats_url = !\n", r"shardbus\.toml is not TOML: .*line 1, column 12"),
        ("nats_url = '\udc80'", r"shardbus\.toml is not TOML: "),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(text: str, words: str) -> None:
    Path("shardbus.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SettingsError, match=words):
        CookSettings()


def test_a_mistake_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDBUS_LOG_LEVEL", "loud")
    with pytest.raises(
        SettingsError, match=r"environment variable SHARDBUS_LOG_LEVEL: Input should be 'debug'.*'loud'"
    ):
        CommonSettings()


def test_a_mistake_in_a_flag_names_the_setting() -> None:
    with pytest.raises(SettingsError, match=r"setting prometheus_port: .*got 99999"):
        CommonSettings(prometheus_port=99999)
    with pytest.raises(SettingsError, match=r"unknown key nats_ulr; did you mean nats_url\?"):
        CommonSettings(nats_ulr="x")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_postgres_url_is_taken_as_hosters_write_it(scheme: str) -> None:
    assert CommonSettings(postgres_url=f"{scheme}://u:p@h/d").postgres_url == "postgresql+psycopg://u:p@h/d"


def test_a_url_of_another_database_is_refused_without_showing_its_password() -> None:
    with pytest.raises(SettingsError, match=r"setting postgres_url: it is to start with postgresql://") as refused:
        CommonSettings(postgres_url="mysql://u:hunter2@h/d")
    assert "hunter2" not in str(refused.value)


def test_nobody_sees_a_secret_by_printing_settings() -> None:
    settings = CookSettings(
        nats_url="nats://:hunter2@h",
        postgres_url="postgresql://u:hunter2@h/d?sslpassword=hunter2",
        access_token=SecretStr("hunter2"),
    )
    for text in (str(settings), repr(settings), settings.describe(), f"{settings}"):
        assert "hunter2" not in text
        assert "postgresql+psycopg://u:***@h/d" in text
    assert "hunter2" in settings.postgres_url
    write('[agent]\naccess_token = ["hunter2"]')
    with pytest.raises(SettingsError, match=r"\[agent\] access_token: ") as refused:
        CookSettings()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("nats://host:4222", "nats://host:4222"),
        ("nats://user:secret@host", "nats://user:***@host"),
        ("nats://token@host", "nats://***@host"),
        ("nats://a:secret@one,nats://b:secret@two", "nats://a:***@one,nats://b:***@two"),
        ("can not reach postgresql://u:se:cr@et@h/d now", "can not reach postgresql://u:***@h/d now"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("http://host/a@b?c=1&auth_token=secret&d=2", "http://host/a@b?c=1&auth_token=***&d=2"),
        ("me@home", "me@home"),
    ],
)
def test_passwords_in_urls_are_hidden_and_nothing_else(text: str, hidden: str) -> None:
    assert hide_passwords(text) == hidden


def test_data_goes_where_the_system_keeps_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_folder() == Path("/var/lib/shardbus")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_data_folder() == Path("/home/ada/.local/state/shardbus")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_data_folder() == Path("/state/shardbus")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_data_folder() == Path("/home/ada/.local/state/shardbus")
    assert CommonSettings(data_dir="~/data").data_dir == Path("/home/ada/data")
