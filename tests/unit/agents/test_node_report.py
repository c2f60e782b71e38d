from datetime import timedelta

from shardbus_agents.agent import Identity
from shardbus_agents.backends.protocol import DeviceFault, DeviceProblem, DeviceSample
from shardbus_agents.collector import Sampled, Snapshot, merge
from shardbus_agents.report import Asked, node_report
from shardbus_schemas.devices import PeerPath
from shardbus_schemas.ids import BootId, DeviceId, NodeId
from shardbus_schemas.node_report import NodeReport, ReportedInterface, ReportedLink
from support.readings import NODE, START, facts, state

IDENTITY = Identity(
    node_id=NodeId(NODE), boot_id=BootId("b"), hostname="attic.home", labels=(("site", "home"),), agent_version="1"
)


def report(snapshot: Snapshot, *asked: Asked, interfaces: tuple[ReportedInterface, ...] = ()) -> NodeReport:
    return node_report(IDENTITY, snapshot, asked, taken_at=START, seconds=0.51234, interfaces=interfaces)


def test_a_node_says_who_it_is_and_when_it_looked() -> None:
    told = report(Snapshot())
    assert (told.node_id, told.hostname, told.labels) == (NODE, "attic.home", {"site": "home"})
    assert (told.taken_at, told.seconds, told.version) == (START, 0.512, 1)
    assert told.devices == ()


def test_every_reading_that_is_not_known_has_a_reason() -> None:
    sample = DeviceSample(
        state("a", memory_used_bytes=1, memory_total_bytes=2, throttle_reasons=()),
        unknown={"power_watts": "the kernel offers no power1_input for it"},
        gauges={"clock_hertz": 1e9},
    )
    (device,) = report(merge([Sampled((facts("a"),), (sample,))])).devices
    assert device.unknown["power_watts"] == "the kernel offers no power1_input for it"
    assert device.unknown["thermal_temperature_c"] == "no backend says why"
    assert device.unknown["battery_percent"] == "no battery that any backend knows of"
    assert not {"memory_used_bytes", "memory_total_bytes", "throttle_reasons"} & device.unknown.keys()
    assert "utilization_mean_percent" not in device.unknown
    assert device.gauges == {"clock_hertz": 1e9}


def test_a_device_with_a_problem_is_reported_with_it_and_with_what_was_known() -> None:
    told = Sampled((facts("a", name="RTX"),), (DeviceProblem(DeviceId("a"), "it fell off the bus"),))
    lost = Sampled((), (DeviceProblem(DeviceId("b"), "it hangs"),))
    devices = report(merge([told, lost]), Asked("nvml", devices=told.devices)).devices
    assert [(device.facts.device_id, device.problem) for device in devices] == [
        ("a", "it fell off the bus"),
        ("b", "it hangs"),
    ]
    assert devices[0].facts.name == "RTX"
    assert devices[0].state is None


def test_the_ways_between_devices_are_links() -> None:
    peer = PeerPath(device_id=DeviceId("b"), kind="nvlink", links=4)
    told = report(merge([Sampled((facts("a", peers=(peer,)), facts("b")))]))
    assert told.links == (ReportedLink(from_device=DeviceId("a"), to=peer),)


def test_backends_are_named_with_their_devices_or_with_why_not() -> None:
    told = report(Snapshot(), Asked("psutil", devices=(facts("cpu"),)), Asked("nvml", "no driver"))
    there, away = told.backends
    assert (there.name, there.is_available, there.devices, there.reason) == ("psutil", True, ("cpu",), None)
    assert (away.is_available, away.reason, away.devices) == (False, "no driver", ())


def test_faults_and_interfaces_are_in_it() -> None:
    fault = DeviceFault(DeviceId("a"), "xid", "XID 79", START + timedelta(seconds=1), code=79)
    wire = ReportedInterface(name="eth0", speed_bytes_per_second=125e6, is_up=True)
    told = report(merge([Sampled((facts("a"),), (fault,))]), interfaces=(wire,))
    assert told.faults == ("a: XID 79",)
    assert told.interfaces == (wire,)


def test_it_survives_json() -> None:
    peer = PeerPath(device_id=DeviceId("b"), kind="system")
    told = report(merge([Sampled((facts("a", peers=(peer,)),), (state("a", power_watts=3.5),))]), Asked("x", "y"))
    assert NodeReport.model_validate_json(told.model_dump_json()) == told
