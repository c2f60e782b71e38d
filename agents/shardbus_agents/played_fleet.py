"""The nodes of a fleet file and of what happens to them, ready to be run."""

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from shardbus_infra.files.fleet_file import read_fleet
from shardbus_infra.files.scenario_file import read_scenario
from shardbus_schemas.fleet import Fleet, FleetNode
from shardbus_schemas.ids import DeviceId
from shardbus_schemas.scenario import FailShardStep, Scenario

from shardbus_agents.agent import Identity
from shardbus_agents.backends.protocol import Backend
from shardbus_agents.backends.simulated import Script, SimulatedBackend
from shardbus_agents.cast import Cast
from shardbus_agents.life import agent_version, new_boot
from shardbus_agents.links import count_links_from, links_from
from shardbus_agents.runners.played import PlayedRunners
from shardbus_agents.runners.wanted import Wanted
from shardbus_agents.settings import AgentSettings
from shardbus_agents.simulation import Narrator, Playable, PlayedLinks, PlayedNode, SimulationClock
from shardbus_agents.timeline import Life

_log = logging.getLogger(__name__)

_MANY_LINKS: Final = 20_000

Begin = Callable[[Identity, Backend, PlayedRunners | None], Playable]
"""Makes an agent of a node, for one of its lives."""


def play_file(
    path: Path,
    settings: AgentSettings,
    begin: Begin,
    *,
    now: Callable[[], datetime],
    wanted: Callable[[], Wanted | None] | None = None,
) -> tuple[PlayedNode | Narrator, ...]:
    """Return the nodes of the fleet file at ``path`` with the scenario of ``settings``; raises FileError.

    With ``wanted`` they have runners, which load what is wanted.
    """
    fleet = read_fleet(path)
    scenario = Scenario() if settings.simulate_scenario is None else read_scenario(settings.simulate_scenario, fleet)
    devices, links = sum(1 for _ in fleet.devices()), sum(count_links_from(fleet, node.node_id) for node in fleet.nodes)
    _log.info("playing %d nodes with %d devices and %d links of %s", len(fleet.nodes), devices, links, path)
    if links > _MANY_LINKS:
        rate = links / settings.link_interval_seconds
        _log.warning("%d links are %.0f messages a second: leave default_link out of %s", links, rate, path)
    if wanted is None and any(isinstance(step, FailShardStep) for step in scenario.steps):
        _log.warning("fail_shard has nobody to make fail: the played devices run no shards; see --run-shards")
    return played_nodes(fleet, scenario, settings, begin, now=now, wanted=wanted)


def played_nodes(
    fleet: Fleet,
    scenario: Scenario,
    settings: AgentSettings,
    begin: Begin,
    *,
    now: Callable[[], datetime],
    wanted: Callable[[], Wanted | None] | None = None,
) -> tuple[PlayedNode | Narrator, ...]:
    """Return every node of ``fleet``, and who narrates ``scenario``."""
    cast = Cast(scenario, fleet)
    interval = settings.sample_interval_seconds
    clock = SimulationClock(time_scale=scenario.time_scale, interval_seconds=interval, nodes=len(fleet.nodes))

    def played(place: int, node: FleetNode) -> PlayedNode:
        seen: set[DeviceId] = set()

        steps_of = cast.devices.get(node.node_id, {})

        def runners() -> PlayedRunners | None:
            if wanted is None:
                return None
            failing = {key: [each for each in own if isinstance(each, FailShardStep)] for key, own in steps_of.items()}
            rate = settings.simulate_loading_bytes_per_second
            return PlayedRunners(node.node_id, wanted, bytes_per_second=rate, clock=clock.now, steps=failing)

        def live(life: Life) -> Playable:
            own = runners()
            script = Script(
                steps=steps_of,
                clock=clock.ticks(life, place) if scenario.steps else None,
                began=life.start,
                time_scale=scenario.time_scale,
                patience_seconds=settings.driver_patience_seconds,
                seen=seen,
                resident_bytes=_nothing if own is None else own.resident_bytes,
            )
            identity = Identity(
                node_id=node.node_id,
                boot_id=new_boot(),
                hostname=node.node_id,
                agent_version=agent_version(),
                operating_system="simulated",
                labels=tuple(node.labels.items()),
                device_link=node.device_link,
            )
            return begin(identity, SimulatedBackend(node, seed=settings.simulate_seed, script=script), own)

        count = count_links_from(fleet, node.node_id)
        links = PlayedLinks(
            lambda: links_from(fleet, node.node_id),
            count,
            cast.links.get(node.node_id, {}),
            clock=clock,
            interval_seconds=settings.link_interval_seconds,
            now=now,
        )
        steps = cast.nodes.get(node.node_id, ())
        return PlayedNode(place, live, steps=steps, links=links if count else None, clock=clock)

    narrator = [Narrator(scenario.timed_steps(), clock)] if scenario.steps else []
    return (*(played(place, node) for place, node in enumerate(fleet.nodes)), *narrator)


def _nothing(_: DeviceId) -> int:
    return 0
