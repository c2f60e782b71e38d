"""``shardbus replay`` as a person runs it."""

import asyncio
import signal
from pathlib import Path

import pytest
from shardbus_eventstore.read_model.database import open_engine
from shardbus_infra.bus.publish import outgoing
from shardbus_schemas.devices import DeviceFacts
from shardbus_schemas.events import DeviceGPUStateUpdated, DeviceRegistered, NodeJoined
from sqlalchemy import text
from support.command_line import document, running, shardbus, shardbus_here
from support.histories import START, reading
from support.projecting import bus_with_streams
from support.waiting import until_sync

pytestmark = pytest.mark.connected


def publish(nats_url: str, ticks: int) -> None:
    async def say() -> None:
        async with bus_with_streams(nats_url) as bus:
            joined = NodeJoined(node_id="n1", boot_id="b", heartbeat_seconds=10)
            registered = DeviceRegistered(node_id="n1", device=DeviceFacts(device_id="g1"))
            readings = [
                DeviceGPUStateUpdated(node_id="n1", boot_id="b", tick=tick, states=(reading(memory_used_bytes=tick),))
                for tick in range(ticks)
            ]
            await bus.append_many(
                [
                    outgoing(message, source="test", event_id=str(number), occurred_at=START)
                    for number, message in enumerate((joined, registered, *readings))
                ]
            )

    asyncio.run(say())


def execute(postgres_url: str, statement: str) -> None:
    with open_engine(postgres_url).begin() as connection:
        connection.execute(text(statement))


def test_it_rebuilds_compares_and_names_what_was_tampered_with(nats_url: str, postgres_url: str) -> None:
    urls = {"SHARDBUS_NATS_URL": nats_url, "SHARDBUS_POSTGRES_URL": postgres_url}
    publish(nats_url, 50)
    done = shardbus("replay", **urls)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("52 messages in ")
    assert first.endswith("FLEET 2, TELEMETRY 50")
    assert last == "the rebuilt read model is live"

    assert "0 differences" in shardbus_here("replay", "--dry-run", "--compare", **urls).stdout
    execute(postgres_url, "UPDATE device_states SET memory_used_bytes = 1000000")
    execute(postgres_url, "DELETE FROM device_history WHERE sequence = 3")
    found = shardbus_here("replay", "--dry-run", "--compare", **urls)
    assert found.returncode == 1
    assert "2 differences" in found.stdout
    assert "device_states (node_id n1, device_id g1).memory_used_bytes: live 1000000, rebuilt 49" in found.stdout
    assert "device_history (sequence 3, node_id n1, device_id g1): only in the rebuilt read model" in found.stdout
    told = document(shardbus_here("replay", "--dry-run", "--compare", "--json", **urls), code=1)
    assert (told["switched"], told["comparison"]["differences"], told["positions"]["TELEMETRY"]) == (False, 2, 50)
    assert told["comparison"]["shown"][1] == {
        "table": "device_history",
        "key": {"sequence": "3", "node_id": "n1", "device_id": "g1"},
        "column": None,
        "live": None,
        "rebuilt": "there",
    }
    assert document(shardbus_here("replay", "--json", **urls))["switched"] is True
    assert (
        document(shardbus_here("replay", "--dry-run", "--compare", "--json", **urls))["comparison"]["differences"] == 0
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--compare"], "--compare goes with --dry-run"),
        (["--forget", "--dry-run"], "--dry-run replaces none"),
    ],
)
def test_flags_that_make_no_sense_together_are_refused(flags: list[str], said: str) -> None:
    done = shardbus_here("replay", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_servers_that_do_not_answer_are_named(nats_url: str) -> None:
    publish(nats_url, 1)
    done = shardbus_here("replay", SHARDBUS_NATS_URL=nats_url)
    assert done.returncode == 5
    assert done.stderr.startswith("shardbus: Postgres at postgresql+psycopg://shardbus@127.0.0.1:1/shardbus cannot be")
    done = shardbus_here("replay")
    assert done.returncode == 5
    assert "127.0.0.1:1" in done.stderr


def test_ctrl_c_leaves_the_live_one_and_the_next_goes_on(nats_url: str, postgres_url: str, tmp_path: Path) -> None:
    urls = {"SHARDBUS_NATS_URL": nats_url, "SHARDBUS_POSTGRES_URL": postgres_url}
    publish(nats_url, 50)
    assert shardbus_here("replay", **urls).returncode == 0
    with open_engine(postgres_url).connect() as reader:  # keeps it from switching
        reader.execute(text("SELECT count(*) FROM nodes"))
        with running("replay", log=tmp_path / "log", **urls) as process:
            until_sync(lambda: "waiting to switch: " in process.said, within=60)
            assert process.stop(signal.SIGINT) == 130
            assert "Traceback" not in process.said
            assert process.said.splitlines()[-1] == (
                "interrupted: the live read model is as it was; the next `shardbus replay` goes on from here"
            )
    again = document(shardbus_here("replay", "--json", **urls))
    assert (again["resumed"], again["messages"], again["switched"]) == (True, 0, True)
