from typing import Any

import pytest
from shardbus_agents import measuring
from shardbus_agents.backends.host_memory import HostMemory
from shardbus_agents.backends.mlx import MlxDevice
from shardbus_agents.backends.protocol import BackendUnavailableError
from shardbus_agents.measuring import MeasuredDevice
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.node_report import NodeReport, ReportedDevice
from support.readings import NODE, START, facts, state

GIBIBYTE = 2**30
FOUND: dict[str, Any] = {
    "mlx": "1",
    "sum": {"bytes": GIBIBYTE, "seconds": [0.1]},
    "matmul": {"float32": {"size": 512, "seconds": [0.1]}},
    "problems": {},
}


class Child:
    """What stands for MLX's process: it notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.answer: dict[str, Any] | Exception = FOUND

    def __call__(self, *arguments: str, deadline_seconds: float) -> dict[str, Any]:
        self.asked.append(arguments)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Child:
    child = Child()
    monkeypatch.setattr(measuring, "ask_child", child)
    monkeypatch.setattr(measuring, "host_memory", lambda: HostMemory(64 * GIBIBYTE, 32 * GIBIBYTE))
    return child


def measured(runtime: str, **readings: Any) -> MeasuredDevice:
    told = facts("a", name="Some part")
    reported = ReportedDevice(facts=told, state=state("a", **readings))
    report = NodeReport(node_id=NODE, taken_at=START, seconds=1, devices=(reported,))
    return measuring._measured(MlxDevice(runtime, 0, told, "mark"), report)


def test_a_busy_accelerator_is_left_alone(child: Child) -> None:
    result = measured("cuda", compute_utilization_percent=87.0)
    assert result.benchmark is None
    assert result.problem == "87 % busy: measure it when it is idle"
    assert child.asked == []


def test_a_busy_processor_is_measured_with_a_warning(child: Child) -> None:
    result = measured("cpu", compute_utilization_percent=87.0)
    assert result.benchmark is not None
    assert "87 % busy: the figures may be too low" in (result.problem or "")


@pytest.mark.parametrize("busy", [None, 3.0])
def test_an_idle_device_is_measured_within_its_allowance(child: Child, busy: float | None) -> None:
    result = measured("cuda", compute_utilization_percent=busy, memory_used_bytes=0, memory_total_bytes=8 * GIBIBYTE)
    assert result.benchmark is not None
    assert result.problem is None
    assert child.asked == [("measure", "cuda", "0", str(2 * GIBIBYTE))]


def test_a_full_device_is_not_measured(child: Child) -> None:
    result = measured("cuda", memory_used_bytes=8 * GIBIBYTE - 1, memory_total_bytes=8 * GIBIBYTE)
    assert result.problem == "too little memory is free to measure anything"
    assert child.asked == []


def test_a_device_with_a_problem_is_not_measured(child: Child) -> None:
    lost = ReportedDevice(facts=facts("a"), problem="it fell off the bus")
    report = NodeReport(node_id=NODE, taken_at=START, seconds=1, devices=(lost,))
    result = measuring._measured(MlxDevice("cuda", 0, facts("a"), "mark"), report)
    assert (result.device_id, result.problem) == (DeviceId("a"), "it fell off the bus")
    assert child.asked == []


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (BackendUnavailableError("mlx gave no answer within 120 s"), "mlx gave no answer within 120 s"),
        (
            {**FOUND, "sum": {"bytes": GIBIBYTE, "seconds": [1e-9]}},
            "a memory bandwidth of 1.07e+18 B/s cannot be",
        ),
    ],
)
def test_what_fails_or_cannot_be_is_no_figure(child: Child, answer: Any, problem: str) -> None:
    child.answer = answer
    result = measured("cuda")
    assert (result.benchmark, result.problem) == (None, problem)


def test_a_dtype_that_fails_takes_no_other_with_it(child: Child) -> None:
    child.answer = {**FOUND, "problems": {"float16": "not supported"}}
    result = measured("cuda")
    assert result.benchmark is not None
    assert set(result.benchmark.flops) == {"float32"}
    assert result.problem == "float16: not supported"
