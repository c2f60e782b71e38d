"""The child process: a request on stdin, an answer on stdout, each one line of JSON; events come in between."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time

from shardbus_agents.backends.nvml.driver import readings, topology
from shardbus_agents.backends.nvml.driver.cards import Cards, answers_normally
from shardbus_agents.backends.nvml.driver.events import Listener
from shardbus_agents.backends.nvml.driver.library import DeviceGoneError, DriverGoneError, Library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from shardbus_agents.backends.nvml.driver.cards import Card, Device, Problem, Slice

_PR_SET_PDEATHSIG = 1


class Tiers:
    """Which questions are due. One that is due within a fraction of a tick is due now, so that no age is exceeded."""

    SLACK_SECONDS = 0.25

    def __init__(self, medium_seconds: float, slow_seconds: float) -> None:
        self._seconds = {"medium": medium_seconds, "slow": slow_seconds}
        self._at: dict[str, float] = {}

    def take(self, name: str, now: float) -> bool:
        """Return whether the tier is due at ``now``; then it is so again only after its time."""
        last = self._at.get(name)
        seconds = self._seconds[name]
        if last is not None and now - last < seconds - min(self.SLACK_SECONDS, seconds / 10):
            return False
        self._at[name] = now
        return True

    def hurry(self) -> None:
        """Make the slow tier due: something happened."""
        self._at.pop("slow", None)


class Session:
    """One life of the driver's library."""

    def __init__(self, options: dict[str, Any], out: Out) -> None:
        self._out = out
        self._library = Library()
        self._driver, _ = self._library.ask("nvmlSystemGetDriverVersion")
        self._cards = Cards(self._library)
        self._tiers = Tiers(options["medium_seconds"], options["slow_seconds"])
        self._listener = Listener(options["parent"], self._on_event)
        self._heard_of_failure = False
        self._told: list[dict[str, Any]] | None = None
        self._gpus_folder: str = options["gpus_folder"]
        self._present = self._listed()
        self._hurry = False

    def answer(self, number: int) -> dict[str, Any]:
        """Return what there is, and what it does; raise DriverGoneError when the driver went away."""
        self._library.seconds = 0.0
        now = time.monotonic()
        if self._hurry:
            self._hurry = False
            self._tiers.hurry()
        medium, slow = self._tiers.take("medium", now), self._tiers.take("slow", now)
        problems = list(self._cards.find())
        read: list[Device] = []
        for card in list(self._cards.opened.values()):
            is_new = not card.is_introduced
            problems += self._read(card, read, medium=medium or is_new, slow=slow or is_new)
        self._introduce(slow=slow)
        # What was asked of no device in particular, all share: so the devices' seconds are the tick's.
        shared = self._library.seconds - sum(card.seconds for card in self._cards.opened.values())
        for device in read:
            device.seconds += shared / len(read)
        said: dict[str, Any] = {
            "kind": "answer",
            "number": number,
            "readings": [self._reading(device) for device in read],
            "problems": problems,
        }
        devices = [self._facts(device) for device in read]
        if devices != self._told:
            self._told = said["devices"] = devices
        if slow and self._listed() != self._present:
            said["reopen"] = True  # the library counts the GPUs when it is loaded
        return said

    def _read(self, card: Card, read: list[Device], *, medium: bool, slow: bool) -> list[Problem]:
        """Ask the card what is due and append it, or its slices, to ``read``; return what cannot be used of it."""
        before = self._library.seconds
        problems: list[Problem] = []
        try:
            if slow and card.has_changed_mode():
                self._cards.close(card)
                problems += self._cards.find()
                again = self._cards.opened.get(card.index)
                return problems if again is None else problems + self._read(again, read, medium=True, slow=False)
            if card.is_partitioned:
                readings.ask_heat(card.readings, card.handle)
            else:
                readings.ask_fast(card.readings, card.handle)
                readings.check_answers(card.readings)
            if medium:
                readings.ask_medium(card.readings, card.handle)
            if slow:
                readings.ask_slow(card.readings, card.handle)
            if card.is_partitioned:
                problems += self._read_slices(card, read, slow=slow)
            else:
                read.append(card)
            card.seconds = self._library.seconds - before
            for piece in card.slices.values():
                piece.seconds = card.seconds / len(card.slices)
        except DeviceGoneError as error:
            problems = list(self._cards.problems_of(card.index, error.failure))
            read[:] = [device for device in read if device.index != card.index]
            self._cards.close(card)
        return problems

    def _read_slices(self, card: Card, read: list[Device], *, slow: bool) -> list[Problem]:
        look = slow or len(card.slices) != len(card.slice_ids) or not card.slices
        problems = list(card.find_slices()) if look else []
        for slot, each in list(card.slices.items()):
            if not self._slice_answers(each):
                del card.slices[slot]
                problems += [problem for problem in card.find_slices() if problem[0] == each.uuid]
                again = card.slices.get(slot)
                if again is not None and not self._slice_answers(again):
                    del card.slices[slot]
                    problems.append((each.uuid, again.readings.failures["memory"]))
        read += card.slices.values()
        return problems

    def _slice_answers(self, each: Slice) -> bool:
        try:
            readings.ask_memory(each.readings, each.handle)
        except DeviceGoneError as error:
            each.readings.keep("memory", None, error.failure)
        return answers_normally(each.readings.failures.get("memory"))

    def _introduce(self, *, slow: bool) -> None:
        """Listen to cards that are new, and look again how the cards are connected where that may have changed."""
        cards = list(self._cards.opened.values())
        new = [card for card in cards if not card.is_introduced]
        try:
            links = [card.readings.values.get("nvlinks") for card in cards]
            if slow and not new:
                for card in cards:
                    topology.active_links(self._library, card)
            if new or [card.readings.values.get("nvlinks") for card in cards] != links:
                topology.connect(self._library, [card for card in cards if not card.is_partitioned])
        except DeviceGoneError:
            return  # the next tick finds out which, and asks again
        for card in new:
            card.is_introduced = True
            self._listener.add(card)
        if cards and self._listener.ident is None:
            self._listener.start()
        if self._listener.failure is not None and not self._heard_of_failure:
            self._heard_of_failure = True
            self._out.say({"kind": "deaf", "failure": self._listener.failure})

    def _reading(self, device: Device) -> dict[str, Any]:
        values, failures = device.readings.values, device.readings.failures
        card = getattr(device, "card", None)
        if card is not None:
            shared = readings.SHARED
            values = {name: card.readings.values[name] for name in shared if name in card.readings.values} | values
            failures = {n: card.readings.failures[n] for n in shared if n in card.readings.failures} | failures
        return {"id": device.uuid, "values": values, "failures": failures, "seconds": device.seconds}

    def _facts(self, device: Device) -> dict[str, Any]:
        card = getattr(device, "card", None)
        said: dict[str, Any] = {
            "id": device.uuid,
            "index": device.index,
            "driver": self._driver,
            "values": dict(device.facts.values),
            "failures": dict(device.facts.failures),
            "peers": device.peers,
        }
        if card is not None:
            said |= {"slot": getattr(device, "slot", None), "card": self._facts(card)}
        return said

    def _on_event(self, uuid: str, event: dict[str, Any]) -> None:
        """In the listener's thread: say it at once, for the main thread may hang."""
        card = next((card for card in list(self._cards.opened.values()) if card.uuid == uuid), None)
        slices = [] if card is None else list(card.slices.values())
        hit = [each for each in slices if each.instance == event["instance"]] or slices
        ids = [each.uuid for each in hit] or self._cards.last_ids_of(uuid)
        self._hurry = True
        self._out.say({"kind": "event", "ids": ids, "at": time.time(), **event})

    def _listed(self) -> list[str] | None:
        try:
            with os.scandir(self._gpus_folder) as entries:
                return sorted(entry.name for entry in entries)
        except OSError:
            return None


class Out:
    """The way to the parent, for two threads."""

    def __init__(self) -> None:
        # What the driver's library prints must not come between: it goes where errors go.
        self._file = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def say(self, message: dict[str, Any]) -> None:
        """Write one line."""
        line = memoryview(json.dumps(message).encode() + b"\n")
        with self._lock:
            while line:
                line = line[os.write(self._file, line) :]


def die_with(parent: int) -> None:
    """End when the parent does; on Linux the kernel sees to it, elsewhere (and too late for it) the listener."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    """Answer until stdin ends or the driver goes."""
    options = json.loads(sys.argv[1])
    die_with(options["parent"])
    # Ctrl-C reaches the whole group; the parent says when to go. SIGTERM keeps its default: a handler of Python's
    # would never run while a call of the driver hangs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = Out()
    try:
        session = Session(options, out)
        for line in sys.stdin.buffer:
            out.say(session.answer(json.loads(line)["number"]))
    except DriverGoneError as error:
        out.say({"kind": "unavailable", "failure": error.failure})
    # No nvmlShutdown: it may hang, and the kernel lets go of everything that this process holds.
    os._exit(0)
