"""A projector in a process of its own, which a certain message kills.

``python -m support.deadly_projector NATS POSTGRES`` is gone the moment it would decode the message of a node that is
named ``DEADLY``, as by a segmentation fault.
"""

import asyncio
import os
import signal
import sys

from shardbus_eventstore import intake
from shardbus_eventstore.projector import run
from shardbus_infra.bus.nats import connect
from shardbus_infra.bus.port import Stored
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import Received
from support.projecting import settings_for

DEADLY = "deadly"
DIED = 86


async def _project(nats_url: str, postgres_url: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    bus = await connect(nats_url, name="deadly projector")
    try:
        await run(bus, settings_for(postgres_url), stop)
    finally:
        await bus.close()


if __name__ == "__main__":
    decode = intake.receive

    def decode_or_die(stored: Stored) -> Received[FrozenModel]:
        if stored.subject.endswith(f".{DEADLY}"):
            os._exit(DIED)
        return decode(stored)

    intake.receive = decode_or_die
    asyncio.run(_project(*sys.argv[1:]))
