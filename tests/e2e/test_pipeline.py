"""The whole pipeline as people run it: real servers, each process on its own, a command line and a bare NATS client.

All tests share one stack; each leaves it running and makes its own instances.
"""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from shardbus_eventstore.read_model import queries
from shardbus_eventstore.read_model.database import open_engine, snapshot
from shardbus_infra.embedded.nats import EmbeddedNats
from shardbus_infra.embedded.postgres import EmbeddedPostgres
from shardbus_schemas import subjects
from shardbus_schemas.fleet import Fleet
from sqlalchemy import Connection
from support.command_line import Running, document, lines, shardbus, shardbus_here
from support.jetstream import jetstream
from support.server_folders import server_folder
from support.waiting import until_sync

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(180)]

MODEL = "llama-3.1-8b"
LAYERS = 32
THIS_MACHINE = "this-machine"
PATIENCE = 60.0
"""Seconds: generous, for machines that do other things too. What is waited for usually comes at once."""

AnswerT = TypeVar("AnswerT")
Query = Callable[[Connection], AnswerT]


class Stack:
    """Two servers, two agents, a projector and a placer, each a process of its own."""

    def __init__(self, nats: EmbeddedNats, postgres: EmbeddedPostgres, fleet_file: Path, logs: Path) -> None:
        self.nats = nats
        self.postgres = postgres
        self.fleet_file = fleet_file
        self._logs = logs
        self._environment = {
            "SHARDBUS_NATS_URL": nats.url,
            "SHARDBUS_POSTGRES_URL": postgres.url,
            "SHARDBUS_SAMPLE_INTERVAL_SECONDS": "0.5",
        }
        self._engine = open_engine(postgres.url, application_name="test")
        self.processes: dict[str, Running] = {}

    def start(self, *names: str) -> None:
        """Start processes, each for the first time or after its end."""
        arguments = {
            "simulated": ("agent", "--simulate", self.fleet_file, "--seed", "1"),
            "agent": ("agent", "--node-id", THIS_MACHINE),
            "projector": ("projector",),
            "placer": ("placer",),
        }
        for name in names:
            self.processes[name] = Running(*arguments[name], log=self._logs / f"{name}.log", **self._environment)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one command against these servers, as a process of its own."""
        return shardbus(*arguments, **self._environment)

    def here(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one command against these servers, quickly."""
        return shardbus_here(*arguments, **self._environment)

    def place(self, *arguments: str | Path, code: int = 0) -> Any:
        """Ask for a placement by the command line and return its answer."""
        return document(self.here("place", *arguments, "--timeout", "60", "--json"), code=code)

    def tell(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> int:
        """Publish as a bare NATS client and return the sequence in the stream."""

        async def publish() -> int:
            async with jetstream(self.nats.url) as context:
                return (await context.publish(subject, payload, headers=headers)).seq

        return asyncio.run(publish())

    def ask(self, query: Query[AnswerT]) -> AnswerT:
        """Return what the read model says."""
        with snapshot(self._engine) as connection:
            return query(connection)

    def instances_of(self, sequence: int) -> Sequence[queries.InstanceView]:
        """Return what became of the bare command at ``sequence`` of its stream."""
        return [found for found in self.ask(queries.instances) if found.command_id.startswith(f"COMMANDS:{sequence}@")]

    def wait_for_instance(self, instance_id: str) -> queries.InstanceView:
        """Return an instance as soon as Postgres has it."""
        found: list[queries.InstanceView] = []

        def arrived() -> bool:
            view = self.ask(lambda connection: queries.instance(connection, instance_id))
            found.extend([view] if view else [])
            return view is not None

        until_sync(arrived, within=PATIENCE, what=f"{instance_id} in Postgres")
        return found[-1]

    def fleet(self) -> Fleet:
        """Return the fleet as Postgres has it."""
        return self.ask(lambda connection: queries.fleet(connection, datetime.now(UTC)))

    def status(self) -> dict[str, str]:
        """Return each device's status."""
        return {str(key): device.status for key, _, device in self.fleet().devices()}

    def reserved(self) -> dict[str, int]:
        """Return what is promised on each device."""
        return {str(key): device.memory_reserved_bytes for key, _, device in self.fleet().devices()}

    def wait_until_all_report(self) -> None:
        """Return when every device of both agents is there and in use."""
        until_sync(self._all_report, within=PATIENCE, what=f"the fleet; the logs are in {self._logs}")

    def _all_report(self) -> bool:
        for name, process in self.processes.items():
            assert process.alive, f"{name} ended by itself:\n{process.said}"
        try:
            status = self.status()
        except Exception:  # noqa: BLE001 -- until the projector has made its tables there is nothing to ask
            return False
        return len(status) >= 13 and set(status.values()) == {"ok"}

    def stop(self) -> None:
        for process in self.processes.values():
            if process.alive:
                process.process.terminate()
        for process in self.processes.values():
            process.stop()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    demo_fleet = as_file(files("shardbus_console") / "data" / "demo_fleet.yaml")
    with (
        server_folder() as folder,
        EmbeddedNats(folder / "nats") as nats,
        EmbeddedPostgres(folder / "postgres") as postgres,
        demo_fleet as fleet_file,
    ):
        running = Stack(nats, postgres, fleet_file, tmp_path_factory.mktemp("logs"))
        try:
            running.start("projector", "placer", "simulated", "agent")
            running.wait_until_all_report()
            yield running
        finally:
            running.stop()


def covers_all_layers(instance: queries.InstanceView, layers: int = LAYERS) -> bool:
    ranges = sorted({(shard.start_layer, shard.end_layer) for shard in instance.shards})
    return ranges[0][0] == 0 and ranges[-1][1] == layers and all(one[1] == two[0] for one, two in pairwise(ranges))


def test_a_bare_message_is_placed_and_its_shards_are_in_postgres(stack: Stack) -> None:
    sequence = stack.tell("shardbus.v1.command.place", b'{"model_id": "llama-3.1-8b"}')
    until_sync(lambda: stack.instances_of(sequence), within=PATIENCE, what="the placement in Postgres")
    (instance,) = stack.instances_of(sequence)
    assert covers_all_layers(instance)
    listed = {item["instance_id"]: item for item in document(stack.run("instances", "--json"))}
    shown = listed[instance.instance_id]
    assert shown["status"] == "placed"
    assert [shard["device"] for shard in shown["shards"]] == [shard.device for shard in instance.shards]
    assert set(shown["plan"]["stages"][0]["devices"]) <= set(stack.status())
    as_text = stack.here("instances", instance.instance_id)
    assert as_text.returncode == 0
    assert all(shard.device in as_text.stdout for shard in instance.shards)


def test_the_same_command_id_twice_is_one_instance(stack: Stack) -> None:
    first = document(stack.run("place", MODEL, "--command-id", "twice", "--timeout", "60", "--json"))
    second = document(stack.run("place", MODEL, "--command-id", "twice", "--timeout", "60", "--json"))
    assert first["instance_id"] == second["instance_id"]
    stack.wait_for_instance(first["instance_id"])
    assert [found.command_id for found in stack.ask(queries.instances)].count("twice") == 1


def test_a_placement_is_printed_as_a_table_with_its_reasons(stack: Stack) -> None:
    done = stack.run("place", MODEL, "--dry-run", "--timeout", "60")
    assert done.returncode == 0, done.stderr
    assert "would be placed (dry run)" in done.stdout
    for heading in ("device", "layers", "memory", "time", "why", "strategy", "objective"):
        assert heading in done.stdout
    assert "\x1b" not in done.stdout


def test_a_request_that_cannot_fit_exits_with_3_and_says_how_much_is_missing(stack: Stack) -> None:
    answer = stack.place("deepseek-r1", "--command-id", "too-large", code=3)
    refusal = answer["result"]["refusal"]
    assert refusal["missing_bytes"] > 10**9
    assert refusal["remedy"]
    as_text = stack.run("place", "deepseek-r1", "--command-id", "too-large", "--timeout", "60")
    assert as_text.returncode == 3
    assert "missing" in as_text.stdout
    assert "what would help" in as_text.stdout
    events = lines(stack.here("events", "--type", "PlacementRejected", "--json"))
    assert [event["data"]["command_id"] for event in events].count("too-large") == 1
    assert {event["headers"]["ce-type"] for event in events} == {"PlacementRejected"}
    until_sync(
        lambda: "too-large" in {view.command_id for view in stack.ask(queries.refusals)},
        within=PATIENCE,
        what="the refusal in Postgres",
    )


def test_a_placement_and_a_refusal_are_explained(stack: Stack) -> None:
    instance = stack.place(MODEL, "--command-id", "to-be-explained")["instance_id"]
    stack.wait_for_instance(instance)
    why = stack.here("explain", instance)
    assert why.returncode == 0, why.stderr
    for said in ("asked: ", "where the time goes", "what binds", "the runner-up", "how it was decided"):
        assert said in why.stdout
    stack.place("deepseek-r1", "--command-id", "cannot-fit", code=3)
    until_sync(
        lambda: "cannot-fit" in {view.command_id for view in stack.ask(queries.refusals)},
        within=PATIENCE,
        what="the refusal in Postgres",
    )
    found = json.loads(stack.here("explain", "cannot-fit", "--json").stdout)
    assert {remedy["kind"] for remedy in found["result"]["refusal"]["remedies"]}


def test_an_unknown_model_is_refused_with_what_was_probably_meant(stack: Stack) -> None:
    done = stack.here("place", "llama-3.1-8bb", "--timeout", "60")
    assert done.returncode == 3
    assert "did you mean 'llama-3.1-8b'" in done.stdout


@pytest.mark.parametrize("command", ["devices", "links", "models", "instances", "state", "doctor"])
def test_what_is_known_is_printed_for_people_and_for_scripts(stack: Stack, command: str) -> None:
    stack.wait_for_instance(stack.place(MODEL, "--command-id", "to-be-listed")["instance_id"])
    as_text, as_json = stack.here(command), stack.here(command, "--json")
    assert (as_text.returncode, as_json.returncode) == (0, 0), as_text.stderr + as_json.stderr
    assert json.loads(as_json.stdout)
    expected = {
        "devices": ["attic/cuda:0", "NVIDIA GeForce RTX 3090", f"{THIS_MACHINE}/"],
        "links": ["attic", "rented", "MB/s"],
        "models": [MODEL, "GiB"],
        "instances": [MODEL, "placed", "tokens/s"],
        "state": ["attic/cuda:0", "instances placed", "as of TELEMETRY"],
        "doctor": ["NATS", "stream FLEET", "read model of FLEET"],
    }
    for text in expected[command]:
        assert text in as_text.stdout
    assert "problem" not in as_text.stdout


def test_events_can_be_limited_filtered_and_begun_anywhere(stack: Stack) -> None:
    first = lines(stack.here("events", "--json", "-n", "3"))
    assert [event["sequence"] for event in first] == [1, 2, 3]
    later = lines(stack.here("events", "--json", "--from", "2", "-n", "1"))
    assert later == first[1:2]
    joined = lines(stack.here("events", "--json", "--subject", subjects.any_event("node"), "--type", "NodeJoined"))
    assert {event["data"]["node_id"] for event in joined} >= {THIS_MACHINE, "attic", "rented"}
    readings = stack.here("events", "--stream", "telemetry", "-n", "2")
    assert readings.stdout.count("DeviceGPUStateUpdated") + readings.stdout.count("GPUBandwidthMeasured") == 2


def test_the_live_fleet_is_planned_on_offline(stack: Stack, tmp_path: Path) -> None:
    now = tmp_path / "now.json"
    now.write_text(stack.run("state", "--json").stdout)
    devices = {
        f"{node['node_id']}/{device['device_id']}"
        for node in json.loads(now.read_text())["nodes"]
        for device in node["devices"]
    }
    assert devices == set(stack.status())
    plan = document(shardbus_here("plan", "--fleet", now, MODEL, "--json"))
    assert plan["status"] == "placed"
    assert set(plan["stages"][0]["devices"]) <= devices


def test_a_deleted_instance_gives_its_memory_back(stack: Stack) -> None:
    before = stack.reserved()
    instance_id = stack.place(MODEL, "--command-id", "to-be-deleted")["instance_id"]
    promised = {shard.device: shard.memory_bytes for shard in stack.wait_for_instance(instance_id).shards}
    after = stack.reserved()
    assert all(after[device] > before[device] for device in promised)
    deleted = document(stack.here("delete", instance_id, "--reason", "tested", "--timeout", "60", "--json"))
    assert deleted["instance_id"] == instance_id
    until_sync(lambda: stack.reserved() == before, within=PATIENCE, what="the memory given back")
    again = stack.here("delete", instance_id, "--timeout", "60")
    assert (again.returncode, again.stdout) == (3, "")
    assert "deleted already" in again.stderr


def test_deleting_what_never_was_exits_with_3(stack: Stack) -> None:
    done = stack.here("delete", "nobody", "--timeout", "60")
    assert (done.returncode, done.stdout) == (3, "")
    assert "there is no instance 'nobody'" in done.stderr


def test_a_model_of_ones_own_is_added_and_placed(stack: Stack, tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 16,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    folder = tmp_path / "my-own-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    added = document(stack.here("model", "add", folder, "--timeout", "60", "--json"))
    assert (added["model_id"], added["layers"]) == ("my-own-model", 16)
    instance = stack.wait_for_instance(stack.place("my-own-model")["instance_id"])
    assert covers_all_layers(instance, 16)
    assert "my-own-model" in {view.profile.model_id for view in stack.ask(queries.models)}


BAD_COMMANDS = {
    b"certainly not JSON": "not_json",
    b'{"model_id": "\xff\xfe"}': "not_utf8",
    b'{"model_id": 5}': "invalid",
    b'["llama-3.1-8b"]': "not_object",
    b'{"model": {"model_id": "m", "layers": -3, "layer_bytes": 5}}': "invalid",
    b'{"model_id": "llama-3.1-8b", "context_tokens": -1}': "invalid",
}


def test_bad_commands_are_put_aside_with_the_reason_and_nothing_is_placed(stack: Stack) -> None:
    before = {found.instance_id for found in stack.ask(queries.instances)}
    codes = {stack.tell(subjects.command("place"), payload): code for payload, code in BAD_COMMANDS.items()}
    future = {"ce-type": "Place", "ce-typeversion": "99"}
    codes[stack.tell(subjects.command("place"), b'{"model_id": "llama-3.1-8b"}', future)] = "future_version"

    def buried() -> dict[int, str]:
        letters = stack.ask(queries.dead_letters)
        return {letter.stream_sequence: letter.code for letter in letters if letter.stream == "COMMANDS"}

    until_sync(lambda: codes.items() <= buried().items(), within=PATIENCE, what="the dead letters in Postgres")
    shown = lines(stack.here("events", "--stream", "dead", "--json"))
    reasons = {
        event["data"]["sequence"]: event["data"]["reason"] for event in shown if event["data"]["code"] in codes.values()
    }
    assert all(reasons[sequence] for sequence in codes)
    assert {found.instance_id for found in stack.ask(queries.instances)} == before
    assert asyncio.run(_messages_in(stack.nats.url, "COMMANDS")) == 0


async def _messages_in(url: str, stream: str) -> int:
    async with jetstream(url) as context:
        return (await context.stream_info(stream)).state.messages


def test_bad_readings_are_put_aside_with_the_reason_and_no_device_changes(stack: Stack) -> None:
    def reading(node_id: str, **fields: object) -> bytes:
        state = {"node_id": node_id, "device_id": "cuda:0", "last_update": datetime.now(UTC).isoformat(), **fields}
        return json.dumps({"node_id": node_id, "states": [state]}).encode()

    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    bad = {
        "invalid": ("attic", reading("attic", memory_used_bytes=99, memory_total_bytes=98)),
        "time_in_future": ("attic", reading("attic", memory_used_bytes=77, last_update=tomorrow)),
        "unknown_device": ("stranger", reading("stranger", memory_used_bytes=55)),
    }
    version = {"ce-typeversion": "2"}
    told = {stack.tell(subjects.telemetry(node_id), payload, version): code for code, (node_id, payload) in bad.items()}

    def buried() -> dict[int, str]:
        letters = stack.ask(queries.dead_letters)
        return {letter.stream_sequence: letter.code for letter in letters if letter.stream == "TELEMETRY"}

    until_sync(lambda: told.items() <= buried().items(), within=PATIENCE, what="the dead letters in Postgres")
    letters = {letter.code: letter.reason for letter in stack.ask(queries.dead_letters) if letter.stream == "TELEMETRY"}
    assert "memory_used_bytes 99 is more than memory_total_bytes 98" in letters["invalid"]
    assert "attic/cuda:0" in letters["time_in_future"]
    assert "never joined" in letters["unknown_device"]
    devices = {str(key): device for key, _, device in stack.fleet().devices()}
    assert "stranger/cuda:0" not in devices
    assert devices["attic/cuda:0"].memory_used_bytes not in {99, 77, 55}
    assert devices["attic/cuda:0"].memory_total_bytes == 24 * 2**30


def test_processes_that_are_killed_go_on_where_they_were(stack: Stack) -> None:
    before = len(stack.status())
    for name in ("projector", "placer", "simulated"):
        stack.processes[name].kill()
    told = [stack.tell(subjects.command("place"), b'{"model_id": "llama-3.1-8b"}') for _ in range(3)]
    stack.start("placer", "simulated", "projector")
    until_sync(lambda: all(stack.instances_of(sequence) for sequence in told), within=PATIENCE, what="every placement")
    stack.wait_until_all_report()
    assert [len(stack.instances_of(sequence)) for sequence in told] == [1, 1, 1]
    assert len(stack.status()) == before
    placed = lines(stack.here("events", "--json", "--type", "InstancePlaced"))
    held = stack.ask(lambda connection: queries.instances(connection, include_deleted=True))
    assert sorted(event["data"]["instance_id"] for event in placed) == sorted(found.instance_id for found in held)


def test_servers_that_go_away_are_waited_for(stack: Stack) -> None:
    pids = {name: process.process.pid for name, process in stack.processes.items()}
    for server in (stack.nats, stack.postgres):
        server.stop()
        time.sleep(3)  # the time for which it is gone, not a time to wait for something
        asked = stack.here("devices" if server is stack.postgres else "state")
        assert (asked.returncode, asked.stdout) == (5, "")
        assert "127.0.0.1" in asked.stderr
        server.start()
        answer = stack.place(MODEL, "--command-id", f"after-{type(server).__name__}")
        assert covers_all_layers(stack.wait_for_instance(answer["instance_id"]))
        stack.wait_until_all_report()
    assert {name: process.process.pid for name, process in stack.processes.items()} == pids


def test_an_agent_that_is_stopped_says_so_and_its_devices_are_lost(stack: Stack) -> None:
    assert stack.processes["agent"].stop() == 0
    assert "Traceback" not in stack.processes["agent"].said

    def lost() -> bool:
        return {name: status for name, status in stack.status().items() if status == "lost"}.keys() == {
            name for name in stack.status() if name.startswith(f"{THIS_MACHINE}/")
        }

    until_sync(lost, within=PATIENCE, what="this machine's devices lost")
    stack.start("agent")
    stack.wait_until_all_report()
