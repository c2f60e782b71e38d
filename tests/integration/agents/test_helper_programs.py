"""Helpers of a system as real programs: those that answer, crash, hang, and come back."""

import itertools
import json
import time
from pathlib import Path

import pytest
from shardbus_agents.backends.apple import AppleBackend
from shardbus_agents.backends.commands import PolledCommand
from shardbus_agents.backends.host import HostBackend
from shardbus_agents.backends.host_memory import HostMemory
from shardbus_agents.backends.macmon import MacmonPipe
from shardbus_agents.backends.protocol import BackendUnavailableError
from shardbus_agents.collector import Sampled, merge
from support.readings import NODE, START
from support.waiting import until_sync

GIBIBYTE = 2**30
LINE = json.dumps(
    {
        "temp": {"cpu_temp_avg": 43.5, "gpu_temp_avg": 37.5},
        "gpu_active_ratio": 0.5,
        "gpu_freq_mhz": 461,
        "gpu_power": 1.75,
        "cpu_power": 0.5,
        "sys_power": 5.5,
    }
)
NOMINAL = "Note: No thermal warning level has been recorded"


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def program(tmp_path: Path):  # noqa: ANN201 - a test's own factory
    def write(text: str, name: str = "helper") -> tuple[str]:
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        return (str(file),)

    return write


def polled(command: tuple[str], clock: Clock, deadline_seconds: float = 5) -> PolledCommand:
    return PolledCommand(command, every_seconds=10, deadline_seconds=deadline_seconds, seconds=clock)


def test_a_program_is_asked_now_and_then_and_never_waited_for(program, tmp_path: Path) -> None:  # noqa: ANN001
    clock, asked = Clock(), tmp_path / "asked"
    command = polled(program(f"echo x >> {asked}; sleep 0.1; echo said $(wc -l < {asked})"), clock)
    began = time.monotonic()
    assert command.answer() is None
    assert time.monotonic() - began < 0.1
    assert "not answered yet" in command.trouble
    until_sync(command.answer)
    assert command.answer() == "said 1\n"
    clock.seconds = 9
    assert command.answer() == "said 1\n"
    assert len(asked.read_text().split()) == 1
    clock.seconds = 10
    until_sync(lambda: command.answer() == "said 2\n")
    command.close()


def test_a_first_answer_may_be_waited_for(program) -> None:  # noqa: ANN001
    command = polled(program("sleep 0.05; echo hello"), Clock())
    assert command.answer(wait_seconds=5) == "hello\n"
    assert command.trouble == ""


def test_an_answer_ages_until_it_is_none(program, tmp_path: Path) -> None:  # noqa: ANN001
    clock, fails = Clock(), tmp_path / "fails"
    command = polled(program(f"test -e {fails} && exit 3; echo hello"), clock)
    assert command.answer(wait_seconds=5) == "hello\n"
    fails.touch()
    clock.seconds = 10
    until_sync(lambda: command.answer() and command.trouble)
    assert command.trouble == "helper ended with 3"
    clock.seconds = 26
    until_sync(lambda: command.answer() is None)
    command.close()


def test_a_program_that_hangs_is_ended_at_its_deadline(program, tmp_path: Path) -> None:  # noqa: ANN001
    clock, pid = Clock(), tmp_path / "pid"
    command = polled(program(f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 60"), clock)
    assert command.answer() is None
    until_sync(pid.exists)
    clock.seconds = 6
    assert command.answer() is None
    assert command.trouble == "helper gave no answer within 5 s"
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_a_program_that_is_not_there_or_cannot_start_is_a_reason(tmp_path: Path) -> None:
    missing = polled(("no-such-helper",), Clock())
    assert not missing.is_installed
    assert missing.answer() is None
    assert "No such file" in missing.trouble
    (tmp_path / "text").write_text("no program")
    closed = polled((str(tmp_path / "text"),), Clock())
    assert closed.answer() is None
    assert "Permission denied" in closed.trouble


def test_macmon_is_read_line_by_line(program) -> None:  # noqa: ANN001
    pipe = MacmonPipe(program(f"echo '{LINE}'; exec sleep 60"))
    until_sync(lambda: pipe.reading()[1] == "")
    reading, _ = pipe.reading()
    assert (reading.gpu_busy_percent, reading.gpu_watts, reading.gpu_temperature_c) == (50, 1.75, 37.5)
    process = pipe._process
    assert process is not None
    pipe.close()
    assert process.poll() is not None


def test_a_reading_that_is_old_is_unknown_with_its_age(program) -> None:  # noqa: ANN001
    clock = Clock()
    pipe = MacmonPipe(program(f"echo '{LINE}'; exec sleep 60"), seconds=clock, stale_seconds=8)
    until_sync(lambda: pipe.reading()[1] == "")
    clock.seconds = 9
    reading, why = pipe.reading()
    assert reading.gpu_busy_percent is None
    assert why == "macmon has been silent for 9 s"
    pipe.close()


def test_a_macmon_that_dies_is_started_again_after_growing_pauses(program) -> None:  # noqa: ANN001
    clock = Clock()
    pipe = MacmonPipe(program("exit 7"), seconds=clock, first_pause_seconds=1)

    def ended() -> bool:
        return "ended with 7" in pipe.reading()[1] and pipe._process is None

    starts: list[float] = []
    pipe.reading()
    for _ in range(60):
        until_sync(lambda: pipe._process is None or pipe._process.poll() is not None)
        if pipe.starts > len(starts):
            starts.append(clock.seconds)
        until_sync(ended)
        clock.seconds += 0.5
        pipe.reading()
    pauses = [after - before for before, after in itertools.pairwise(starts)]
    assert pauses[:4] == [1, 2, 4, 8]


def test_a_macmon_that_recovers_is_heard_again(program, tmp_path: Path) -> None:  # noqa: ANN001
    clock, well = Clock(), tmp_path / "well"
    pipe = MacmonPipe(program(f"test -e {well} || exit 1; echo '{LINE}'; exec sleep 60"), seconds=clock)
    until_sync(lambda: "ended with 1" in pipe.reading()[1])
    well.touch()
    clock.seconds = 1.5
    until_sync(lambda: pipe.reading()[1] == "")
    pipe.close()


def test_a_macmon_that_prints_something_else_says_so(program) -> None:  # noqa: ANN001
    pipe = MacmonPipe(program("echo Unsupported chip; exec sleep 60"))
    until_sync(lambda: "Unsupported chip" in pipe.reading()[1])
    pipe.close()


def mac(program, *, pmset: str, macmon: str = "", machine: str = "arm64", available: int = 20) -> AppleBackend:  # noqa: ANN001
    return AppleBackend(
        NODE,
        system="Darwin",
        machine=machine,
        memory=lambda: HostMemory(32 * GIBIBYTE, available * GIBIBYTE),
        chip_name=lambda: "Apple M2 Max",
        pmset=program(pmset, "pmset"),
        macmon_command=program(macmon, "macmon") if macmon else ("no-such-macmon",),
    )


def test_a_mac_has_its_memory_and_thermal_pressure_without_any_helper(program) -> None:  # noqa: ANN001
    backend = mac(program, pmset="echo CPU_Speed_Limit = 60", available=10)
    (facts,), (gpu, cpu) = backend.devices(), backend.sample(START)
    assert (facts.device_id, facts.name, facts.unified_memory) == ("metal:0", "Apple M2 Max", True)
    assert (facts.memory_total_bytes, facts.sources["memory_total_bytes"]) == (32 * GIBIBYTE * 2 // 3, "formula")
    assert facts.memory_bandwidth_bytes_per_second == pytest.approx(400e9)
    assert gpu.state.memory_used_bytes == 32 * GIBIBYTE * 2 // 3 - 10 * GIBIBYTE
    for sample in (gpu, cpu):
        assert sample.state.is_thermal_throttling is True
        assert sample.state.throttle_reasons == ("software_thermal",)
        assert "macmon cannot be started: No such file" in sample.unknown["thermal_temperature_c"]
    assert "macmon cannot be started" in gpu.unknown["compute_utilization_percent"]
    assert cpu.device_id == "cpu"
    backend.close()


def test_with_macmon_a_mac_tells_load_power_and_heat(program) -> None:  # noqa: ANN001
    backend = mac(program, pmset=f"echo '{NOMINAL}'", macmon=f"echo '{LINE}'; exec sleep 60")
    until_sync(lambda: backend.sample(START)[0].state.power_watts is not None)
    gpu, cpu = backend.sample(START)
    assert (gpu.state.compute_utilization_percent, gpu.state.power_watts) == (50, 1.75)
    assert (gpu.state.thermal_temperature_c, gpu.state.is_thermal_throttling) == (37.5, False)
    assert gpu.gauges == {"clock_hertz": 461e6}
    assert (cpu.state.thermal_temperature_c, cpu.state.power_watts) == (43.5, 0.5)
    assert cpu.gauges == {"system_power_watts": 5.5}
    backend.close()


def test_what_apple_tells_joins_what_psutil_tells_of_the_processor(program) -> None:  # noqa: ANN001
    apple, host = mac(program, pmset=f"echo '{NOMINAL}'", macmon=f"echo '{LINE}'; exec sleep 60"), HostBackend(NODE)
    until_sync(lambda: apple.sample(START)[1].state.power_watts is not None)
    merged = merge([Sampled(source.devices(), source.sample(START)) for source in (host, apple)])
    assert merged.states["cpu"].power_watts == 0.5
    assert merged.states["cpu"].memory_total_bytes is not None
    assert "power_watts" not in merged.unknown["cpu"]
    assert set(merged.devices) == {"cpu", "metal:0"}
    apple.close()


def test_a_pmset_that_fails_leaves_throttling_unknown(program) -> None:  # noqa: ANN001
    backend = mac(program, pmset="exit 1")
    gpu, _ = backend.sample(START)
    assert gpu.state.is_thermal_throttling is None
    assert gpu.unknown["is_thermal_throttling"] == "pmset ended with 1"
    backend.close()


def test_a_mac_with_an_intel_processor_has_no_such_gpu(program) -> None:  # noqa: ANN001
    backend = mac(program, pmset=f"echo '{NOMINAL}'", machine="x86_64")
    assert backend.devices() == ()
    assert [sample.device_id for sample in backend.sample(START)] == ["cpu"]
    backend.close()


def test_elsewhere_there_is_no_mac() -> None:
    with pytest.raises(BackendUnavailableError, match="this is Linux, not macOS"):
        AppleBackend(NODE, system="Linux", machine="x86_64")


def test_a_phone_tells_its_battery_through_termux(program) -> None:  # noqa: ANN001
    said = json.dumps({"percentage": 64, "plugged": "PLUGGED_USB", "temperature": 33.5})
    backend = HostBackend(NODE, phone=program(f"echo '{said}'", "termux-battery-status"))
    until_sync(lambda: backend.sample(START)[0].state.battery_percent is not None)
    (sample,) = backend.sample(START)
    assert (sample.state.battery_percent, sample.state.is_plugged_in) == (64, True)
    assert "battery_percent" not in sample.unknown
    backend.close()


def test_a_phone_without_the_app_says_why_it_tells_no_battery(program) -> None:  # noqa: ANN001
    backend = HostBackend(NODE, phone=program("exit 1", "termux-battery-status"))
    until_sync(lambda: "ended with 1" in backend.sample(START)[0].unknown.get("battery_percent", ""))
    backend.close()
