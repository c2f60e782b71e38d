"""A state that holds all that the streams hold at this moment."""

import asyncio

from shardbus_eventstore.live import LiveState
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import Bus, ExpectedLast
from shardbus_infra.bus.streams import FLEET, TELEMETRY

from shardbus_placer.ledger import LEDGER


async def caught_up(bus: Bus, live: LiveState, timeout_seconds: float) -> ExpectedLast:
    """Wait until the state holds all that the streams hold now; return where the ledger ends in it. Raises BusError."""
    newest, fleet, telemetry = await asyncio.gather(bus.last(FLEET, LEDGER), bus.info(FLEET), bus.info(TELEMETRY))
    ledger = newest.sequence if newest else 0
    # Asked at the same time, either answer may be the later one.
    await live.wait_until(FLEET, max(ledger, fleet.last_sequence), timeout_seconds)
    await live.wait_until(TELEMETRY, telemetry.last_sequence, timeout_seconds)
    return seen_in(live.state, ledger)


def seen_in(state: FleetState, at_least: int) -> ExpectedLast:
    """Return where the ledger ends in a state that holds the ledger up to ``at_least``, and maybe more."""
    folded = max((record.updated_sequence for record in state.instances.values()), default=0)
    return ExpectedLast(LEDGER, max(at_least, folded))
