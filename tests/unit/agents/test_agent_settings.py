import platform
import re
from pathlib import Path

import pytest
from shardbus_agents.settings import AgentSettings
from shardbus_infra.errors import SettingsError
from shardbus_infra.settings import CommonSettings


@pytest.fixture(autouse=True)
def no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_agent_speaks_for_this_host_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AgentSettings().node_id == platform.node()
    monkeypatch.setenv("SHARDBUS_NODE_ID", "attic")
    assert AgentSettings().node_id == "attic"


@pytest.mark.parametrize("name", ["a/b", "", " attic", "x" * 201, "tab\there"])
def test_a_bad_node_id_is_refused_with_what_a_good_one_is(name: str) -> None:
    with pytest.raises(SettingsError, match=r"node_id: a node id is text of 1 to 200 characters, without '/'"):
        AgentSettings(node_id=name)


def test_backends_are_all_or_those_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AgentSettings().backends == "auto"
    monkeypatch.setenv("SHARDBUS_BACKENDS", '["psutil", "mlx"]')
    assert AgentSettings().backends == ("psutil", "mlx")
    monkeypatch.setenv("SHARDBUS_BACKENDS", '["cudaa"]')
    with pytest.raises(SettingsError, match="SHARDBUS_BACKENDS"):
        AgentSettings()


def test_thresholds_and_pace_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDBUS_TEMPERATURE_THRESHOLD_C", "2.5")
    pace = AgentSettings(sample_interval_seconds=1, heartbeat_seconds=30).pace
    assert (pace.sample_interval_seconds, pace.heartbeat_seconds) == (1, 30)
    assert pace.thresholds.temperature_c == 2.5
    assert pace.thresholds.utilization_points == 10


def test_the_agents_section_of_the_settings_file_counts(tmp_path: Path) -> None:
    (tmp_path / "shardbus.toml").write_text('[agent]\nnode_id = "cellar"\nlabels = {site = "home"}\n')
    settings = AgentSettings()
    assert (settings.node_id, settings.labels) == ("cellar", {"site": "home"})


def test_a_fleet_file_to_play_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDBUS_SIMULATE", "fleet.json")
    monkeypatch.setenv("SHARDBUS_SIMULATE_SEED", "7")
    settings = AgentSettings()
    assert (settings.simulate, settings.simulate_seed) == (Path("fleet.json"), 7)


def test_the_readme_names_every_setting_of_an_agent_and_no_other() -> None:
    readme = (Path(__file__).parents[3] / "agents" / "README.md").read_text()
    documented = {name.lower() for name in re.findall(r"`SHARDBUS_([A-Z_]+)` \|", readme)}
    own = set(AgentSettings.model_fields) - set(CommonSettings.model_fields)
    assert documented == own | {"nats_url"}


@pytest.mark.parametrize("address", ["", "host", ":4300", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "host:-1"])
def test_a_bad_address_to_be_measured_at_is_refused_with_what_a_good_one_is(address: str) -> None:
    with pytest.raises(SettingsError, match=r"HOST:PORT, such as 127\.0\.0\.1:0"):
        AgentSettings(probe_listen=address)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "0.0.0.0:4300", "[::]:0", "attic.local:65535"])
def test_an_address_to_be_measured_at_has_a_host_and_a_port(address: str) -> None:
    assert AgentSettings(probe_listen=address).probe_listen == address


def test_no_link_is_measured_unless_told() -> None:
    assert AgentSettings().probe_listen is None
