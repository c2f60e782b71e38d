"""``export`` of an instance on the streams: by its id, its beginning or its model; with what its nodes say of them."""

import asyncio
import json
import random
from collections.abc import Iterator

import pytest
from shardbus_infra.bus.publish import outgoing
from shardbus_schemas import events
from shardbus_schemas.ids import InstanceId
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.placement import PlacementRequest, StatePosition
from support.command_line import document, shardbus_here
from support.exporting import facts_of, plan_of, small_model, uuid_of
from support.histories import START
from support.projecting import bus_with_streams

pytestmark = pytest.mark.connected


def told() -> Iterator[FrozenModel]:
    """Two nodes, one labelled, one with a host name; one model placed twice, another once; one of them is lost."""
    for node, about in (("attic", {"labels": {"address": "10.0.0.5"}}), ("desk", {"hostname": "desk.local"})):
        yield events.NodeJoined(node_id=node, boot_id="b", heartbeat_seconds=86400, **about)
        yield events.DeviceRegistered(node_id=node, device=facts_of(f"{node}/0", "cuda"))
    for instance, model in (("small-1", "small"), ("small-2", "small"), ("other-1", "other"), ("gone-1", "gone")):
        yield events.InstancePlaced(
            instance_id=InstanceId(instance),
            command_id=instance,
            model=small_model(model_id=model),
            request=PlacementRequest(model_id=model, context_tokens=1024, concurrency=3),
            plan=plan_of([(["desk/0"], 6), (["attic/0"], 4)], model_id=model),
            position=StatePosition(),
        )
    yield events.InstanceLost(instance_id=InstanceId("gone-1"), devices=("attic/0",), reason="the card fell off")


@pytest.fixture
def live(nats_url: str) -> str:
    async def tell() -> None:
        async with bus_with_streams(nats_url) as bus:
            ready = [outgoing(one, source="test", event_id=str(random.random()), occurred_at=START) for one in told()]
            await bus.append_many(ready)

    asyncio.run(tell())
    return nats_url


def test_an_instance_is_found_by_its_id_its_beginning_or_its_model(live: str) -> None:
    first = document(shardbus_here("export", "other-1", "--for", "vllm", "--json", SHARDBUS_NATS_URL=live))
    for name in ("oth", "other"):
        assert document(shardbus_here("export", name, "--for", "vllm", "--json", SHARDBUS_NATS_URL=live)) == first
    (head, _) = first["files"].values()
    for said in (
        "# other-1 (other), placed by shardbus.",
        f"CUDA_VISIBLE_DEVICES={uuid_of('desk/0')}",
        "VLLM_PP_LAYER_PARTITION=6,4",
        "--master-addr desk.local",
        "--max-model-len 1024",
        "--max-num-seqs 3",
    ):
        assert said in head


def test_labels_come_before_host_names_and_options_before_both(live: str) -> None:
    said = ("export", "small-1", "--for", "mlx", "--json")
    files = document(shardbus_here(*said, SHARDBUS_NATS_URL=live))["files"]
    assert [host["ssh"] for host in json.loads(files["hostfile.json"])["hosts"]] == ["desk.local", "10.0.0.5"]
    files = document(shardbus_here(*said, "--address", "attic=attic.lan", SHARDBUS_NATS_URL=live))["files"]
    assert [host["ssh"] for host in json.loads(files["hostfile.json"])["hosts"]] == ["desk.local", "attic.lan"]


def test_what_is_not_one_placed_instance_is_said(live: str) -> None:
    for name, code, said in [
        ("small", 2, "2 instances are named like 'small': small-1, small-2"),
        ("smal-1", 2, "did you mean 'small-1'?"),
        ("gone-1", 3, "gone-1 is lost: the card fell off"),
    ]:
        done = shardbus_here("export", name, "--for", "vllm", SHARDBUS_NATS_URL=live)
        assert (done.returncode, done.stdout) == (code, "")
        assert said in done.stderr
