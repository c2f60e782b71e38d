"""A state that holds all that the streams hold at this moment."""

from shardbus_eventstore.live import LiveState
from shardbus_infra.bus.port import Bus, ExpectedLast
from shardbus_infra.bus.streams import FLEET, TELEMETRY

from shardbus_placer.ledger import LEDGER


async def caught_up(bus: Bus, live: LiveState, timeout_seconds: float) -> ExpectedLast:
    """Wait until the state holds all that the streams hold now; return the ledger's last sequence. Raises BusError."""
    newest = await bus.last(FLEET, LEDGER)
    for stream in (FLEET, TELEMETRY):
        info = await bus.info(stream)
        await live.wait_until(stream, info.last_sequence, timeout_seconds)
    return ExpectedLast(LEDGER, newest.sequence if newest else 0)
