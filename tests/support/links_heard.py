"""``links_heard URL COUNT``: prints the first COUNT probed links of a bus, one JSON object a line."""

import asyncio
import sys
from contextlib import aclosing

from shardbus_infra.bus.nats import NatsBus, connect
from shardbus_infra.bus.port import BusUnreachableError
from shardbus_infra.bus.receive import receive
from shardbus_infra.bus.reconcile import reconcile
from shardbus_infra.bus.streams import TELEMETRY
from shardbus_schemas.events import GPUBandwidthMeasured


async def patiently(url: str) -> NatsBus:
    async with asyncio.timeout(30):
        while True:
            try:
                return await connect(url, name="links-heard")
            except BusUnreachableError:
                await asyncio.sleep(0.1)


async def main(url: str, count: int) -> None:
    bus = await patiently(url)
    await reconcile(bus)
    async with aclosing(bus.follow(TELEMETRY, subjects=["shardbus.v1.link.>"])) as batches:
        async for batch in batches:
            for stored in batch:
                message = receive(stored).message
                if isinstance(message, GPUBandwidthMeasured) and message.method == "probe":
                    sys.stdout.write(message.model_dump_json() + "\n")
                    count -= 1
            if count <= 0:
                break
    await bus.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
