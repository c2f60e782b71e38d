"""A node is taken out of use and back, and instances are moved and multiplied, as a person does it by the command line.

`shardbus up` plays a fleet whose runtimes load what is placed there, so that --wait has an end to wait for.
"""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command_line import Running, document, shardbus_here
from support.server_folders import server_folder
from support.waiting import until_sync

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(180)]

MODEL = {"model_id": "tiny", "layers": 4, "layer_bytes": 50_000_000, "hidden_size": 512}
SETTINGS = {"SHARDBUS_SAMPLE_INTERVAL_SECONDS": "0.2", "SHARDBUS_SIMULATE_LOADING_BYTES_PER_SECOND": "1e11"}
PATIENCE = 60.0
OWN_SERVERS: dict[str, Any] = {"SHARDBUS_NATS_URL": None, "SHARDBUS_POSTGRES_URL": None}
CARD = {"name": "NVIDIA GeForce RTX 3090", "memory_used_bytes": 1e6, "is_thermal_throttling": False}
NODES = {"attic": ("home", ["GPU-a", "GPU-b"]), "desk": ("home", ["GPU-c"]), "rack": ("office", ["GPU-d"])}
FLEET = {
    "nodes": [
        {
            "node_id": node,
            "labels": {"site": site},
            "devices": [
                {"device_id": device, "label": f"cuda:{number}", **CARD} for number, device in enumerate(devices)
            ],
            "device_link": {"bandwidth_bytes_per_second": 12.5e9, "latency_seconds": 5e-6},
        }
        for node, (site, devices) in NODES.items()
    ],
    "links": [
        {"from": a, "to": b, "bandwidth_bytes_per_second": 1.2e9, "latency_seconds": 0.0001}
        for a in NODES
        for b in NODES
        if a != b
    ],
}


class House:
    """``shardbus up`` with a played fleet, and commands that find it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        fleet = folder / "fleet.json"
        fleet.write_text(json.dumps(FLEET))
        self.model = folder / "tiny.json"
        self.model.write_text(json.dumps(MODEL))
        ports = ("--nats-port", "0", "--postgres-port", "0")
        more = ("--simulate", fleet, "--seed", "1", "--node-id", "this-machine", "--run-shards")
        self.process = Running(
            "up", "--data-dir", self.data, *ports, *more, log=folder / "up.log", **OWN_SERVERS, **SETTINGS
        )

    def here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return shardbus_here(*arguments, **OWN_SERVERS, SHARDBUS_DATA_DIR=str(self.data))

    def told(self, *arguments: str, code: int = 0) -> Any:
        """Return a command's JSON."""
        return document(self.here(*arguments, "--json"), code=code)

    def place(self, *arguments: str) -> str:
        """Place a model, wait until it runs, and return the instance's name."""
        placed = self.told("place", "tiny", "--exclude", "this-machine", "--wait", "--timeout", "60", *arguments)
        assert placed["waited"]["end"] == "reached"
        return str(placed["instance_id"])

    def instances(self) -> dict[str, Any]:
        return {instance["instance_id"]: instance for instance in self.told("instances")}

    def nodes_of(self, instance: str) -> set[str]:
        """Return where an instance is, by the read model."""
        return {shard["device"].split("/")[0] for shard in self.instances()[instance]["shards"]}

    def standing(self, node: str) -> set[str]:
        """Return how the node's devices stand."""
        return {
            (device["cordon"] or {"standing": device["status"]})["standing"]
            for device in self.told("devices")
            if device["node_id"] == node
        }

    def is_empty(self) -> bool:
        """Return whether readings show that nothing is loaded any more."""
        used = [device["memory_used_bytes"] for device in self.told("devices") if device["node_id"] in NODES]
        return max(used) < 1e9

    def wait_for(self, instance: str, *nodes: str) -> None:
        """Return when the read model has an instance there, and all of it ready."""

        def there() -> bool:
            found = self.instances().get(instance)
            return (
                found is not None
                and {shard["device"].split("/")[0] for shard in found["shards"]} == set(nodes)
                and {shard["state"] for shard in found["shards"]} == {"ready"}
            )

        until_sync(there, within=PATIENCE, what=f"{instance} on {nodes}")


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with server_folder() as folder:
        started = House(folder)
        try:

            def there() -> bool:
                assert started.process.alive, started.process.said
                done = started.here("devices", "--json")
                return done.returncode == 0 and len(json.loads(done.stdout)) >= 5

            until_sync(there, within=PATIENCE, what="the fleet")
            started.told("model", "add", str(started.model))
            yield started
        finally:
            if started.process.alive:
                started.process.stop(signal.SIGINT)


@pytest.fixture(autouse=True)
def empty(house: House) -> Iterator[None]:
    """Begin with nothing placed, and nothing cordoned."""
    yield
    for deployment in house.told("deployments"):
        house.told("scale", deployment["model_id"], "0", "--deployment", deployment["deployment_id"], "--wait")
    for instance in house.instances():
        house.here("delete", instance)
    for node in NODES:
        house.here("uncordon", node)
    until_sync(house.is_empty, within=PATIENCE, what="memory that is free again")


def test_a_wait_ends_when_all_shards_are_ready_and_says_each_step_on_stderr(house: House) -> None:
    done = house.here("place", "tiny", "--include", "desk", "--wait", "--timeout", "60")
    assert done.returncode == 0, done.stderr
    assert "desk/GPU-c" in done.stdout
    assert done.stderr.splitlines()[-1].endswith("is placed, shards 1/1 ready")
    shown = house.here("instances", next(iter(house.instances())))
    assert "what its runtimes say" in shown.stdout


def test_a_cordoned_node_keeps_what_it_has_and_takes_nothing_new(house: House) -> None:
    first = house.place("--include", "desk")
    assert house.told("cordon", "desk", "--reason", "loud fan")["reason"] == "loud fan"
    until_sync(lambda: house.standing("desk") == {"cordoned"}, within=PATIENCE)
    refused = house.told("place", "tiny", "--include", "desk", code=3)
    assert "cordoned" in json.dumps(refused["result"])
    assert house.nodes_of(first) == {"desk"}
    assert house.here("cordon", "desk").returncode == 3
    for command in (("devices",), ("top", "--once"), ("state",)):
        shown = house.here(*command).stdout
        assert "cordoned" in shown, command
        assert "loud fan" in shown, command
    house.told("uncordon", "desk")
    house.place("--include", "desk")


def test_a_drained_node_is_empty_when_the_wait_is_over_and_comes_back(house: House) -> None:
    stays, leaves = house.place("--include", "attic"), house.place("--include", "desk", "--include", "rack")
    [node] = house.nodes_of(leaves)
    [other] = {"desk", "rack"} - {node}
    drained = house.told("drain", node, "--wait", "--timeout", "60")
    assert drained["waited"]["end"] == "reached"
    assert f"{node} is empty" in drained["waited"]["text"]
    until_sync(lambda: house.standing(node) == {"drained"}, within=PATIENCE)
    house.wait_for(leaves, other)
    assert house.nodes_of(stays) == {"attic"}
    again = house.here("drain", node, "--wait")
    assert again.returncode == 0
    assert again.stderr.startswith(f"{node} is empty")
    house.told("uncordon", node)
    until_sync(lambda: house.standing(node) == {"ok"}, within=PATIENCE)


def test_what_has_no_other_place_waits_with_its_reason_until_there_is_one(house: House) -> None:
    stuck = house.place("--include", "rack")
    drained = house.told("drain", "rack", "--wait", "--timeout", "60", code=6)
    assert drained["waited"]["end"] == "pending"
    assert stuck in drained["waited"]["text"]
    until_sync(lambda: house.instances()[stuck]["status"] == "pending", within=PATIENCE)
    shown = house.here("instances", stuck)
    assert shown.returncode == 0
    assert f"{stuck} is pending since" in shown.stdout
    assert house.here("instances").stdout.count("pending") >= 1
    house.told("uncordon", "rack")
    house.wait_for(stuck, "rack")


def test_one_device_is_drained_by_its_label(house: House) -> None:
    instance = house.place("--include", "attic/GPU-a", "--include", "attic/GPU-b", "--max-devices", "1")
    on = house.instances()[instance]["shards"][0]["device"]
    label = {"attic/GPU-a": "attic/cuda:0", "attic/GPU-b": "attic/cuda:1"}[on]
    drained = house.told("drain", label, "--wait", "--timeout", "60")
    assert (drained["node_id"], drained["device_id"]) == tuple(on.split("/"))
    assert drained["waited"]["end"] == "reached"
    until_sync(lambda: house.nodes_of(instance) == {"attic"}, within=PATIENCE)
    assert house.standing("attic") == {"drained", "ok"}


def test_an_instance_is_moved_away_and_not_for_nothing(house: House) -> None:
    instance = house.place("--exclude", "attic")
    [before] = house.nodes_of(instance)
    moved = house.told("move", instance, "--away-from", before, "--wait", "--timeout", "60")
    assert moved["waited"]["end"] == "reached"
    assert moved["waited"]["text"] == f"{instance} is placed, shards 1/1 ready"
    [there] = {"desk", "rack"} - {before}
    house.wait_for(instance, there)
    fixed = house.place("--include", "desk")
    nothing = house.here("move", fixed)
    assert nothing.returncode == 3
    assert "as well as it can" in nothing.stderr
    assert house.here("move", "nobody").returncode == 3


def test_replicas_are_spread_over_sites_and_those_without_a_place_wait(house: House) -> None:
    spread = ("--spread-by", "site", "--exclude", "this-machine", "--deployment", "chat")
    roomy = ("--runtime-overhead-bytes", "9000000000")  # two fit on a card
    scaled = house.told("scale", "tiny", "2", *spread, *roomy, "--wait", "--timeout", "60")
    assert scaled["waited"]["end"] == "reached"
    until_sync(lambda: house.told("deployments")[0]["placed"] == 2, within=PATIENCE)
    [chat] = house.told("deployments")
    nodes = [house.nodes_of(each["instance_id"]) for each in chat["instances"]]
    assert len([one for one in nodes if one == {"rack"}]) == 1, nodes
    too_many = house.told("scale", "tiny", "12", "--deployment", "chat", "--wait", "--timeout", "60", code=6)
    assert too_many["waited"]["end"] == "pending"
    assert "8 of 12 placed" in too_many["waited"]["text"]
    until_sync(lambda: house.told("deployments")[0]["pending"], within=PATIENCE)
    assert "is pending" in house.here("deployments").stdout
    fewer = house.told("scale", "tiny", "1", "--deployment", "chat", "--wait", "--timeout", "60")
    assert fewer["waited"]["text"] == "chat: 1 of 1 placed, shards 1/1 ready"


def test_nothing_is_rebalanced_for_nothing(house: House) -> None:
    house.place("--include", "desk")
    nothing = house.here("rebalance", "--threshold", "1", "--wait")
    assert nothing.returncode == 3
    assert "no instance gains more than 100%" in nothing.stderr


def test_when_the_time_of_a_wait_is_over_it_says_how_far_it_is(house: House) -> None:
    huge = ("deepseek-r1", "--wait-for-capacity", "--wait", "--timeout", "3", "--priority", "1")
    waited = house.told("place", *huge, code=6)["waited"]
    assert waited["end"] == "timeout"
    assert "waits for a place" in waited["text"]
    assert house.here("place", "deepseek-r1").returncode == 3
