"""Real plans over simulated nodes that are all this machine: each has a CPU of its own speed."""

import random

from shardbus_console.export.placement import Address, Placement
from shardbus_infra.embedded.ports import FREE_PORTS, is_free
from shardbus_schemas.ids import NodeId
from support.planning import ask, device, fleet, model, placed


def plan_over_cpus(speeds: tuple[float, ...], layers: int, *, first_port: int | None = None) -> Placement:
    """The planner's own cut of ``layers`` over as many nodes as there are ``speeds``; each has the next port."""
    nodes = {f"n{number}": device("cpu", 1000, speed, backend="cpu") for number, speed in enumerate(speeds)}
    where, what = fleet(**nodes), model(layers=layers, size=10)
    plan = placed(ask(where, what, min_nodes=len(speeds), sharding="pipeline"))
    return Placement(
        plan=plan,
        instance_id="small-1",
        model=what,
        devices={key: facts for key, _, facts in where.devices()},
        addresses={
            NodeId(node): Address("127.0.0.1", None if first_port is None else first_port + number)
            for number, node in enumerate(nodes)
        },
    )


def consecutive_ports(count: int) -> int:
    """The first of so many free ports in a row; somebody may take one before it is used, so be ready to retry."""
    for first in random.sample(FREE_PORTS, 200):
        if all(is_free(first + number) for number in range(count)):
            return first
    raise AssertionError(f"found no {count} free ports in a row")
