"""What tests of the NVML backend have in common: a driver of their own, and samplers on it."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from shardbus_agents.backends.host_memory import HostMemory
from shardbus_agents.backends.nvml.sampler import NvmlSampler
from shardbus_agents.backends.protocol import DeviceFault, DeviceProblem, DeviceSample
from shardbus_agents.collector import Sampled
from support.nvml_stub import StubState, build_stub
from support.readings import NODE, START

GIBIBYTE = 2**30
HOST = HostMemory(total_bytes=128 * GIBIBYTE, available_bytes=100 * GIBIBYTE)
PATIENT = 30.0
"""Long enough for any child that answers at all, on any machine."""

UseDriver = Callable[..., StubState]
ResultT = TypeVar("ResultT")


@pytest.fixture(scope="session")
def stub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvml")


@pytest.fixture
def use_driver(monkeypatch: pytest.MonkeyPatch, stub_folder: Path, tmp_path: Path) -> UseDriver:
    """Put the stub in the driver's place for the processes that are started; ``defines`` choose its kind."""

    def use(*defines: str) -> StubState:
        folder = stub_folder / "-".join(("stub", *defines))
        if not folder.exists():
            build_stub(folder, *defines)
        state = StubState(tmp_path / "state")
        monkeypatch.setenv("NVML_STUB_STATE", str(state.path))
        monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
        return state

    return use


@pytest.fixture
def driver(use_driver: UseDriver) -> StubState:
    """A driver of today."""
    return use_driver()


class Watched:
    """A sampler with its answers sorted."""

    def __init__(self, sampler: NvmlSampler) -> None:
        self.sampler = sampler
        self.last = Sampled()

    async def tick(self, patience: float = PATIENT) -> "Watched":
        self.last = await self.sampler.sample(START, patience_seconds=patience)
        return self

    @property
    def samples(self) -> dict[str, DeviceSample]:
        return {each.device_id: each for each in self.last.readings if isinstance(each, DeviceSample)}

    @property
    def problems(self) -> dict[str, str]:
        return {each.device_id: each.reason for each in self.last.readings if isinstance(each, DeviceProblem)}

    @property
    def faults(self) -> list[DeviceFault]:
        return [each for each in self.last.readings if isinstance(each, DeviceFault)]

    @property
    def facts(self) -> dict[str, Any]:
        return {each.device_id: each for each in self.last.devices}

    @property
    def one(self) -> DeviceSample:
        (sample,) = self.samples.values()
        assert self.problems == {}
        return sample

    @property
    def pid(self) -> int:
        assert self.sampler.child_pid is not None
        return self.sampler.child_pid


def with_sampler(scenario: Callable[[Watched], Coroutine[Any, Any, ResultT]], **options: Any) -> ResultT:
    """Run ``scenario`` with a sampler that is closed after it."""

    async def run() -> ResultT:
        sampler = NvmlSampler(NODE, **{"memory": lambda: HOST, "medium_seconds": 0, "slow_seconds": 0} | options)
        try:
            return await scenario(Watched(sampler))
        finally:
            await sampler.close(patience_seconds=2)

    return asyncio.run(run())
