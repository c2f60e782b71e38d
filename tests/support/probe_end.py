"""One end of a measured link as a process: ``serve ADDRESS`` says its port, ``measure ADDRESS PORT`` what it found."""

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import asdict

from shardbus_agents.probe.budget import Budget
from shardbus_agents.probe.client import measure
from shardbus_agents.probe.interfaces import Interfaces
from shardbus_agents.probe.server import ProbeServer
from shardbus_agents.probe.turn import Turn
from shardbus_agents.probe.wire import Hello
from shardbus_schemas.ids import BootId, NodeId
from shardbus_schemas.presence import ProbeAddress

TOKEN = "a token that only the two ends know"


async def serve(address: str) -> None:
    # Who measures again until the figures agree must not be told to wait: what it may cost is tested elsewhere.
    Budget.spend = lambda *_: None
    server = ProbeServer(TOKEN, Turn(busy_percent=100), Interfaces())
    sys.stdout.write(f"{server.listen(address, 0)}\n")
    sys.stdout.flush()
    serving = asyncio.create_task(server.run())
    await asyncio.to_thread(sys.stdin.read)
    serving.cancel()


def main() -> None:
    # The two ends stand for two hosts with nothing else to do, whatever else this machine does.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    match sys.argv[1:]:
        case ["serve", address]:
            asyncio.run(serve(address))
        case ["measure", address, port]:
            hello = Hello(token=TOKEN, node_id=NodeId("a"), boot_id=BootId("1"))
            turn = Turn(busy_percent=100)
            found = measure([ProbeAddress(host=address, port=int(port))], hello, turn, Interfaces())
            told = {**asdict(found), "welcome": found.welcome.model_dump(), "is_settled": found.is_settled}
            sys.stdout.write(json.dumps(told))
        case words:
            sys.exit(f"not understood: {words}")


if __name__ == "__main__":
    main()
