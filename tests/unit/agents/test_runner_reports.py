"""A line of a runner: what it means, and what is said to who wrote one that means nothing."""

import json
from typing import Any

import pytest
from shardbus_agents.runners.report import ReportError, device_named, read_report
from support.readings import facts

SAID: dict[str, Any] = {"instance_id": "llama-1", "device": "cuda:0", "state": "ready"}
DEVICES = (
    facts("GPU-1", uuid="GPU-1", label="cuda:0"),
    facts("GPU-2", uuid="GPU-2", label="cuda:1"),
    facts("cpu"),
)


def line(**what: Any) -> bytes:
    return json.dumps({**SAID, **what}).encode()


def test_a_report_says_what_runs_where() -> None:
    report = read_report(line(start_layer=0, end_layer=20, memory_used_bytes=5, hold=True))
    assert (report.instance_id, report.device, report.state) == ("llama-1", "cuda:0", "ready")
    assert (report.start_layer, report.end_layer, report.memory_used_bytes, report.hold) == (0, 20, 5, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "not a line of JSON"),
        (b"\x00\xff garbage", "not a line of JSON"),
        (b'{"instance_id": "a"', "not a line of JSON"),
        (b"[]", "should be an object"),
        (line(state="redy"), "state: Input should be 'loading', 'ready', 'failed' or 'stopped'"),
        (line(memory=5), "memory: unknown field"),
        (line(memory_used=5), "did you mean 'memory_used_bytes'?"),
        (line(memory_used_bytes=-1), "memory_used_bytes: "),
        (line(memory_used_bytes="5 GB"), "memory_used_bytes: "),
        (line(instance_id="a/b"), "instance_id: "),
        (line(device=""), "device: "),
        (line(start_layer=3), "give start_layer and end_layer, or neither"),
        (line(start_layer=3, end_layer=3), "3 to 3 is no layer"),
        (line(message="x" * 3000), "message: "),
        (json.dumps({"device": "cuda:0", "state": "ready"}).encode(), "instance_id: Field required"),
    ],
)
def test_a_line_that_cannot_be_read_is_answered_with_the_field_and_what_is_wrong(text: bytes, told: str) -> None:
    with pytest.raises(ReportError) as refused:
        read_report(text)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "device_id"), [("GPU-2", "GPU-2"), ("cuda:0", "GPU-1"), ("cpu", "cpu")])
def test_a_device_may_be_named_by_id_uuid_or_label(name: str, device_id: str) -> None:
    assert device_named(name, DEVICES) == device_id


def test_an_id_wins_over_another_ones_label() -> None:
    assert device_named("cuda:0", (*DEVICES, facts("cuda:0"))) == "cuda:0"


def test_a_device_that_is_not_here_is_answered_with_those_that_are() -> None:
    with pytest.raises(ReportError, match=r"this node has no 'cuda:7'; it has cuda:0 \(GPU-1\), cuda:1 \(GPU-2\), cpu"):
        device_named("cuda:7", DEVICES)


def test_a_label_that_two_devices_have_names_neither() -> None:
    with pytest.raises(ReportError, match="may be a or b: give the id"):
        device_named("npu", (facts("a", label="npu"), facts("b", label="npu")))
