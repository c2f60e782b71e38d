import asyncio
import threading
import time
from datetime import datetime

from shardbus_agents.backends.protocol import BackendUnavailableError, DeviceProblem, Reading
from shardbus_agents.collector import Sampled
from shardbus_agents.sampler import PromptSampler, ThreadedSampler
from shardbus_schemas.devices import DeviceFacts
from support.readings import START, after, facts, state
from support.waiting import until


class Scripted:
    """A backend that does what a test tells it to."""

    name = "scripted"

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None
        self.asked: list[datetime] = []
        self.threads: set[str] = set()
        self.closed = False

    def sample(self, at: datetime) -> tuple[Reading, ...]:
        self.asked.append(at)
        self.threads.add(threading.current_thread().name)
        assert self.go_on.wait(10)
        if self.error is not None:
            raise self.error
        return (state("a", last_update=at),)

    def devices(self) -> tuple[DeviceFacts, ...]:
        return (facts("a"),)

    def close(self) -> None:
        self.closed = True


def test_a_backend_is_opened_asked_and_closed_on_a_thread_of_its_own() -> None:
    async def scenario() -> None:
        backend = Scripted()
        sampler = ThreadedSampler("scripted", lambda: backend)
        for second in range(3):
            assert await sampler.sample(after(second), patience_seconds=5) == Sampled(
                (facts("a"),), (state("a", last_update=after(second)),)
            )
        await sampler.close(patience_seconds=5)
        assert backend.closed
        assert backend.threads == {"backend scripted"}

    asyncio.run(scenario())


def test_a_driver_that_hangs_blocks_nobody_and_its_devices_are_reported() -> None:
    async def scenario() -> None:
        backend = Scripted()
        sampler = ThreadedSampler("scripted", lambda: backend)
        await sampler.sample(START, patience_seconds=5)
        backend.go_on.clear()
        hanging = await sampler.sample(after(2), patience_seconds=0.01)
        problem = DeviceProblem("a", "the driver behind scripted hangs: no answer within 0.01 s")
        assert hanging == Sampled((facts("a"),), (problem,))
        # Once it is overdue nobody waits for it any more, and nothing is added to what it has to answer.
        started = time.monotonic()
        (still,) = (await sampler.sample(after(4), patience_seconds=30)).readings
        assert isinstance(still, DeviceProblem)
        assert time.monotonic() - started < 5
        assert backend.asked == [START, after(2)]
        backend.go_on.set()
        await until(lambda: sampler._answer is not None and sampler._answer.done())
        recovered = await sampler.sample(after(6), patience_seconds=5)
        assert recovered.readings == (state("a", last_update=after(6)),)
        await sampler.close(patience_seconds=5)

    asyncio.run(scenario())


def test_a_backend_that_hangs_while_it_opens_delays_the_node_only_so_long() -> None:
    async def scenario() -> None:
        may_open = threading.Event()
        backend = Scripted()

        def slow() -> Scripted:
            assert may_open.wait(10)
            return backend

        sampler = ThreadedSampler("slow", slow)
        assert await sampler.sample(START, patience_seconds=0.01) == Sampled()
        may_open.set()
        await until(lambda: sampler._answer is not None and sampler._answer.done())
        assert (await sampler.sample(after(2), patience_seconds=5)).devices == (facts("a"),)
        await sampler.close(patience_seconds=5)

    asyncio.run(scenario())


def test_a_closing_agent_does_not_wait_for_a_driver_that_hangs() -> None:
    async def scenario() -> None:
        backend = Scripted()
        sampler = ThreadedSampler("scripted", lambda: backend)
        await sampler.sample(START, patience_seconds=5)
        backend.go_on.clear()
        await sampler.sample(after(2), patience_seconds=0.01)
        started = time.monotonic()
        await sampler.close(patience_seconds=30)
        assert time.monotonic() - started < 5
        backend.go_on.set()

    asyncio.run(scenario())


def test_an_error_that_no_backend_should_raise_is_its_devices_problem_alone() -> None:
    async def scenario() -> None:
        backend = Scripted()
        sampler = ThreadedSampler("scripted", lambda: backend)
        await sampler.sample(START, patience_seconds=5)
        backend.error = ZeroDivisionError("of the vendor")
        (problem,) = (await sampler.sample(after(2), patience_seconds=5)).readings
        assert isinstance(problem, DeviceProblem)
        assert problem.device_id == "a"
        assert "of the vendor" in problem.reason
        backend.error = None
        assert (await sampler.sample(after(4), patience_seconds=5)).readings == (state("a", last_update=after(4)),)
        await sampler.close(patience_seconds=5)

    asyncio.run(scenario())


def test_a_backend_that_is_not_available_is_tried_again_later() -> None:
    async def scenario() -> None:
        attempts: list[int] = []

        def sometimes() -> Scripted:
            attempts.append(1)
            if len(attempts) < 3:
                raise BackendUnavailableError("no driver yet")
            return Scripted()

        patient = ThreadedSampler("patient", sometimes, retry_seconds=3600)
        for second in range(5):
            assert await patient.sample(after(second), patience_seconds=5) == Sampled()
        assert len(attempts) == 1
        eager = ThreadedSampler("eager", sometimes, retry_seconds=0)
        assert await eager.sample(START, patience_seconds=5) == Sampled()
        assert (await eager.sample(START, patience_seconds=5)).devices == (facts("a"),)
        await patient.close(patience_seconds=5)
        await eager.close(patience_seconds=5)

    asyncio.run(scenario())


def test_a_backend_that_answers_at_once_needs_no_thread() -> None:
    async def scenario() -> None:
        backend = Scripted()
        sampler = PromptSampler(backend)
        assert (await sampler.sample(START, patience_seconds=1)).readings == (state("a", last_update=START),)
        await sampler.close(patience_seconds=1)
        assert backend.closed
        assert backend.threads == {threading.current_thread().name}

    asyncio.run(scenario())
