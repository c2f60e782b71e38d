"""The fleet at work as a table: what is shown of what is known, and what goes first where there is no room."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from shardbus_console.top_view import ASCII, Sort, age_text, device_table, heading, memory_bar, throttle_text
from shardbus_eventstore.activity import Activity, DeviceActivity, NodeActivity
from shardbus_eventstore.cordoned import CordonedDevice
from shardbus_schemas.events import DeviceFaulted
from shardbus_schemas.fleet import FleetDevice
from shardbus_schemas.ids import DeviceId, DeviceKey, InstanceId, NodeId

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
GIBIBYTE = 2**30
BUSY = {
    "label": "cuda:0",
    "name": "NVIDIA L4",
    "memory_total_bytes": 24 * GIBIBYTE,
    "memory_used_bytes": 6 * GIBIBYTE,
    "memory_reserved_bytes": 12 * GIBIBYTE,
    "compute_utilization_percent": 87.0,
    "thermal_temperature_c": 71.0,
    "throttle_reasons": ("power_cap",),
    "power_watts": 70.4,
}


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def device(
    node: str, device_id: str, *, told: float | None = 3, about: dict[str, Any] | None = None, **facts: Any
) -> DeviceActivity:
    key = DeviceKey.of(NodeId(node), DeviceId(device_id))
    nothing: dict[str, Any] = {
        "utilization_mean_percent": None,
        "utilization_peak_percent": None,
        "lost_at": None,
        "lost_reason": None,
        "faults": 0,
        "last_fault": None,
        "instances": (),
    }
    return DeviceActivity(
        key=key,
        device=FleetDevice(device_id=DeviceId(device_id), **facts),
        registered_at=ago(100),
        told_at=None if told is None else ago(told),
        **(nothing | (about or {})),
    )


def node(name: str, *devices: DeviceActivity, **about: Any) -> NodeActivity:
    known: dict[str, Any] = {
        "joined_at": ago(100),
        "heartbeat_seconds": 10.0,
        "heard_at": ago(1),
        "missed_ticks": 0,
        "left_at": None,
        "left_reason": None,
    }
    return NodeActivity(node_id=NodeId(name), devices=devices, **(known | about))


def fleet(*nodes: NodeActivity) -> Activity:
    return Activity(at=NOW, telemetry_sequence=119, fleet_sequence=25, nodes=nodes)


def drawn(activity: Activity, width: int = 200, **options: Any) -> list[str]:
    """Return the table's lines as a terminal of this width shows them."""
    console = Console(width=width, force_terminal=False, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(device_table(activity, width=width, **options))
    return [line.rstrip() for line in capture.get().splitlines()]


def row(activity: Activity, width: int = 200, **options: Any) -> dict[str, str]:
    """Return the last row by its headings."""
    lines = drawn(activity, width, **options)
    table = device_table(activity, width=width, **options)
    assert len(lines) == table.row_count + 1
    return {str(column.header): str(list(column.cells)[-1]) for column in table.columns}


def test_a_device_is_shown_with_all_that_is_known() -> None:
    told = {
        "utilization_mean_percent": 42.0,
        "utilization_peak_percent": 99.0,
        "instances": (InstanceId("llama-1"), InstanceId("qwen-2")),
    }
    assert row(fleet(node("attic", device("attic", "GPU-1", about=told, **BUSY)))) == {
        "device": "  cuda:0",
        "name": "NVIDIA L4",
        "status": "ok",
        "age": "3 s",
        "busy": "87 %",
        "mean/peak": "42/99 %",
        "°C": "71",
        "held back": "power cap",
        "power": "70 W",
        "memory": "██▒▒▒·····",
        "used": "6.0 GiB",
        "reserved": "12.0 GiB",
        "total": "24.0 GiB",
        "runs": "llama-1, qwen-2",
    }


def test_what_is_unknown_is_a_question_mark_and_never_zero() -> None:
    found = row(fleet(node("attic", device("attic", "GPU-1", told=None))))
    assert found.pop("device") == "  GPU-1"
    assert found.pop("status") == "ok"
    assert found.pop("memory") == "", "of an unknown total there is no bar"
    assert set(found.values()) == {"?"}


def test_a_node_says_when_it_was_last_heard_and_what_was_lost_of_it() -> None:
    lines = drawn(fleet(node("attic", device("attic", "g"), heard_at=ago(75), missed_ticks=4)))
    assert lines[1].split() == ["attic", "ok", "75", "s", "4", "reports", "missed"]


def test_a_node_that_left_says_why() -> None:
    gone = node("attic", device("attic", "g", status="lost"), left_at=ago(300), left_reason="stopped")
    line = drawn(fleet(gone))[1]
    assert "left" in line
    assert "left 5 min ago: stopped" in line


def test_a_node_whose_devices_are_all_stale_is_stale() -> None:
    lines = drawn(fleet(node("attic", device("attic", "g", status="stale"), device("attic", "h", status="stale"))))
    assert lines[1].split()[:2] == ["attic", "stale"]


def test_a_lost_device_says_why_and_when() -> None:
    about = {"lost_reason": "the GPU fell off the bus", "lost_at": ago(120)}
    found = row(fleet(node("attic", device("attic", "g", about=about, status="lost"))))
    assert (found["status"], found["note"]) == ("lost", "the GPU fell off the bus, 2 min ago")


def test_a_fault_is_told_with_its_number_and_age() -> None:
    fault = DeviceFaulted(
        node_id=NodeId("attic"), device_id=DeviceId("g"), kind="xid", code=79, message="fell off", occurred_at=ago(7200)
    )
    found = row(fleet(node("attic", device("attic", "g", about={"faults": 2, "last_fault": fault}))))
    assert found["note"] == "2 faults, last XID 79 2 h ago"


def test_a_degraded_device_and_an_empty_battery_are_told() -> None:
    found = row(fleet(node("a", device("a", "g", health="degraded", battery_percent=7.0, is_plugged_in=False))))
    assert found["note"] == "degraded; battery 7 %"


def test_ages_grow_until_the_read_model_is_asked_again() -> None:
    activity = fleet(node("attic", device("attic", "g", told=3)))
    assert row(activity, since_seconds=40)["age"] == "43 s"
    assert "40 s ago" in str(heading(activity, since_seconds=40))


def test_the_heading_counts_what_is_wrong() -> None:
    activity = fleet(
        node("a", device("a", "g", status="stale"), device("a", "h", about={"faults": 3})),
        node("b", device("b", "g", status="lost")),
    )
    assert str(heading(activity)) == (
        "2 nodes  3 devices  1 stale  1 lost  3 faults  as of 12:00:00 UTC, 0 s ago  TELEMETRY 119, FLEET 25"
    )
    assert str(heading(activity, nodes=[NodeId("b")])).startswith("1 nodes  1 devices  1 lost  as of")


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        (Sort.BUSY, ["hot", "cool", "dark"]),
        (Sort.TEMPERATURE, ["hot", "cool", "dark"]),
        (Sort.MEMORY, ["cool", "hot", "dark"]),
        (Sort.POWER, ["hot", "cool", "dark"]),
        (Sort.AGE, ["cool", "hot", "dark"]),
        (Sort.STATUS, ["dark", "cool", "hot"]),
    ],
)
def test_sorted_the_highest_comes_first_and_the_unknown_last(sort: Sort, order: list[str]) -> None:
    full = {**BUSY, "label": None}
    cool = full | {
        "compute_utilization_percent": 1.0,
        "thermal_temperature_c": 30.0,
        "power_watts": 9.0,
        "memory_used_bytes": 23 * GIBIBYTE,
        "status": "stale",
    }
    activity = fleet(
        node("a", device("a", "dark", told=None, status="lost"), device("a", "cool", told=50, **cool)),
        node("b", device("b", "hot", told=2, **full)),
    )
    names = [line.split()[0].partition("/")[2] for line in drawn(activity, sort=sort)[1:]]
    assert names == order


def test_only_the_wanted_nodes_are_shown() -> None:
    activity = fleet(node("a", device("a", "g")), node("b", device("b", "h")), node("c"))
    assert [line.split()[0] for line in drawn(activity, nodes=[NodeId("b"), NodeId("c")])[1:]] == ["b", "h", "c"]


def test_what_others_named_can_neither_mark_up_nor_steer_the_terminal() -> None:
    found = row(fleet(node("a", device("a", "g", name="[red]GPU\x1b[2J\nof mine"))))
    assert found["name"] == "[red]GPU [2J of mine"


@pytest.mark.parametrize("width", [80, 100, 120, 160, 200])
def test_no_line_is_wider_than_the_terminal_and_the_figures_that_matter_stay(width: int) -> None:
    about = {"instances": (InstanceId("x" * 60),), "lost_reason": "y" * 90, "lost_at": ago(5)}
    long = device("node-with-a-name", "GPU-5f2b", about=about, **(BUSY | {"status": "lost", "name": "n" * 70}))
    activity = fleet(node("node-with-a-name", long, device("node-with-a-name", "h")))
    lines = drawn(activity, width)
    assert max(map(len, lines)) <= width
    assert len(lines) == 4, "one line for each device"
    shown = row(activity, width)
    assert {"device", "status", "age", "busy", "°C"} <= set(shown)
    if width >= 80:
        assert {"memory", "total", "held back"} <= set(shown)


@given(width=st.integers(20, 250), names=st.lists(st.text(max_size=40), max_size=4))
def test_any_width_holds_any_fleet(width: int, names: list[str]) -> None:
    devices = [device("n", f"g{index}", **{**BUSY, "name": name}) for index, name in enumerate(names)]
    lines = drawn(fleet(node("n", *devices)), width)
    assert len(lines) == 2 + len(names)
    assert all(cell_len(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("total", "used", "promised", "bar"),
    [
        (100, 0, 0, ".........."),
        (100, 1, 0, "#........."),
        (100, 50, 0, "#####....."),
        (100, 50, 70, "#####++..."),
        (100, 50, 30, "#####....."),
        (100, 100, 0, "##########"),
        (100, 90, 130, "#########+"),
        (100, None, 40, "++++......"),
        (100, None, 0, "?"),
        (None, 50, 0, ""),
    ],
)
def test_the_bar_shows_what_is_used_promised_and_free(
    total: int | None, used: int | None, promised: int, bar: str
) -> None:
    assert memory_bar(total, used, promised, ink=ASCII) == bar


@given(total=st.integers(1, 2**50), used=st.integers(0, 2**50), promised=st.integers(0, 2**50))
def test_a_bar_has_always_its_length(total: int, used: int, promised: int) -> None:
    assert len(memory_bar(total, used, promised, cells=12, ink=ASCII)) == 12


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (-2, "0 s"), (0.4, "0 s"), (99, "99 s"), (100, "2 min"), (7200, "2 h"), (400_000, "5 d")],
)
def test_an_age_is_one_figure(seconds: float | None, text: str) -> None:
    assert age_text(seconds) == text


def test_what_holds_a_device_back_is_said_in_words() -> None:
    assert throttle_text(("power_cap", "software_thermal"), is_thermal=True) == "power cap, heat"
    assert throttle_text((), is_thermal=False) == ""
    assert throttle_text(None, is_thermal=True) == "heat"
    assert throttle_text(None, is_thermal=False) == ""
    assert throttle_text(None, is_thermal=None) == "?"


def test_a_cordoned_device_says_how_it_stands_why_and_since_when() -> None:
    drains = CordonedDevice(standing="draining", target="attic", reason="new fan", since=ago(60))
    drained = drains.model_copy(update={"standing": "drained"})
    lines = drawn(
        fleet(
            node(
                "attic",
                device("attic", "g", about={"cordon": drained}, status="cordoned"),
                device("attic", "h", about={"cordon": drains}, status="cordoned"),
            )
        )
    )
    assert lines[1].split()[:2] == ["attic", "draining"]
    assert [line.split()[2] for line in lines[2:]] == ["drained", "draining"]
    assert "drained 60 s ago: new fan" in lines[2]


def test_a_lost_device_is_lost_cordoned_or_not() -> None:
    cordon = CordonedDevice(standing="cordoned", target="attic", reason=None, since=ago(5))
    found = row(fleet(node("attic", device("attic", "g", about={"cordon": cordon}, status="lost"))))
    assert found["status"] == "lost"
    assert found["note"] == "cordoned 5 s ago"
