"""The flags of ``whatif`` as changes of a fleet."""

from typing import Any

import pytest
from shardbus_console.change_options import changes_of
from shardbus_console.exits import CommandError
from shardbus_placer.changes import AddDevice, Change, RemoveDevice, RemoveLink, RemoveNode, SetLink, Throttle
from shardbus_schemas.devices import LinkFigures
from shardbus_schemas.ids import DeviceKey, NodeId
from support.planning import device, fleet

BASE = fleet(attic=(device("a", 100), device("new-1", 100)), desk=device("a", 50))
ATTIC, DESK = NodeId("attic"), NodeId("desk")
FIGURES = LinkFigures(bandwidth_bytes_per_second=1.25e9, latency_seconds=0.0002)


def read(**flags: list[str]) -> list[Change]:
    none: dict[str, Any] = dict.fromkeys(("add", "remove", "throttle", "link", "unlink"))
    return changes_of(BASE, **{**none, **flags})


def added(text: str) -> list[AddDevice]:
    return [change for change in read(add=[text]) if isinstance(change, AddDevice)]


def test_a_device_is_added_idle_with_all_that_the_table_knows() -> None:
    (one,) = added("attic=NVIDIA GeForce RTX 4090")
    assert (one.node, one.device.device_id, one.device.backend) == ("attic", "new-2", "cuda")
    assert (one.device.memory_bandwidth_bytes_per_second, one.device.memory_used_bytes) == (1008e9, 0)


def test_several_are_added_with_ids_of_their_own_and_one_with_a_given_id() -> None:
    assert [one.device.device_id for one in added("shed = RTX 3090 *3")] == ["new-1", "new-2", "new-3"]
    assert [one.device.device_id for one in added("shed/cuda:0=RTX 3090")] == ["cuda:0"]
    twice = read(add=["shed=RTX 3090", "shed=RTX 4090"])
    assert [one.device.device_id for one in twice if isinstance(one, AddDevice)] == ["new-1", "new-2"]


def test_a_size_in_the_name_tells_machines_of_one_name_apart() -> None:
    (one,) = added("desk=Apple M2 Ultra 64GB")
    assert one.device.memory_total_bytes == 64 * 2**30


def test_nodes_and_devices_are_removed_and_slowed_by_their_names() -> None:
    assert read(remove=["attic/a", "desk"]) == [RemoveDevice(DeviceKey("attic/a")), RemoveNode(DESK)]
    assert read(throttle=["desk/a", "attic"]) == [
        Throttle(DeviceKey("desk/a")),
        Throttle(DeviceKey("attic/a")),
        Throttle(DeviceKey("attic/new-1")),
    ]
    hot_and_new = read(add=["shed=RTX 3090"], throttle=["shed"])
    assert hot_and_new[-1] == Throttle(DeviceKey("shed/new-1"))


def test_links_are_set_and_cut_one_way_or_both() -> None:
    assert read(link=["attic>desk=1.25GB/s,0.2ms"]) == [SetLink(ATTIC, DESK, FIGURES)]
    assert read(link=["attic <> desk = 10Gb/s, 0.2ms"]) == [
        SetLink(ATTIC, DESK, FIGURES),
        SetLink(DESK, ATTIC, FIGURES),
    ]
    assert read(unlink=["attic>desk"]) == [RemoveLink(ATTIC, DESK)]
    assert read(unlink=["attic<>desk"]) == [RemoveLink(ATTIC, DESK), RemoveLink(DESK, ATTIC)]


def test_a_card_can_be_replaced_and_a_node_built_anew() -> None:
    kinds = [type(change) for change in read(add=["attic=RTX 5090"], remove=["attic/a"])]
    assert kinds == [RemoveDevice, AddDevice]


@pytest.mark.parametrize(
    ("flag", "text", "said"),
    [
        ("add", "attic", "write NODE=NAME, such as 'attic=NVIDIA GeForce RTX 4090*2'"),
        ("add", "attic=RTX 4091", "the device table has no 'RTX 4091' (did you mean 'GeForce RTX 4090'?)"),
        ("add", "attic=a thing", "the device table has no 'a thing'; a device of your own goes into a fleet file"),
        ("add", "attic=A100", "that could be A100 40GB (SXM4/PCIe) or A100 80GB PCIe or A100 80GB SXM4; name one"),
        ("add", "attic=Apple M2 Ultra", "comes with 64GB, 128GB, 192GB; say which, such as 'Apple M2 Ultra 192GB'"),
        ("add", "attic=RTX 3090*0", "add 1 to 1000 devices"),
        ("add", "attic=RTX 3090*99999", "add 1 to 1000 devices"),
        ("add", "attic/x=RTX 3090*2", "only one where you name it"),
        ("add", "a/b/c=RTX 3090", "named by up to 200 characters without '/'"),
        ("link", "attic>desk", "write A>B=RATE,LATENCY, such as 'attic>desk=1.25GB/s,0.2ms'"),
        ("link", "attic>desk=1GB/s", "write A>B=RATE,LATENCY"),
        ("link", "attic-desk=1GB/s,1ms", "name two nodes, A>B for one way or A<>B for both"),
        ("link", ">desk=1GB/s,1ms", "name two nodes"),
        ("link", "attic>desk=1gb/s,1ms", "did you mean GB/s or Gb/s?"),
        ("link", "attic>desk=1GB/s,soon", "write a duration such as 0.3ms"),
        ("unlink", "attic", "name two nodes"),
    ],
)
def test_a_flag_that_cannot_be_read_is_said_whole_with_what_to_write(flag: str, text: str, said: str) -> None:
    with pytest.raises(CommandError) as raised:
        read(**{flag: [text]})
    assert f"--{flag} {text}: " in str(raised.value)
    assert said in str(raised.value)


def test_no_flag_at_all_is_a_mistake() -> None:
    with pytest.raises(CommandError, match="say what would change"):
        read()
