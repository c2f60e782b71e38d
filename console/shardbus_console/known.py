"""What a planning command plans on: a fleet file, or the live fleet with the models that were registered there."""

import asyncio
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from shardbus_eventstore.state import FleetState
from shardbus_infra.bus.port import BusUnreachableError
from shardbus_infra.files.fleet_file import parse_fleet, read_fleet
from shardbus_infra.settings import CommonSettings
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.ids import ModelId
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest, StatePosition
from shardbus_schemas.problems import suggest

from shardbus_console.connection import open_bus, settings_for
from shardbus_console.exits import CommandError, Exit, needs
from shardbus_console.output import data

FleetFile = Annotated[
    Path | None,
    typer.Option(
        "--fleet",
        metavar="FILE",
        help="A fleet file, or - for stdin. [default: the live fleet, folded from the streams on NATS]",
    ),
]


@dataclass(frozen=True)
class Known:
    """A fleet, and the models registered beside the catalogue."""

    fleet: Fleet
    registered: Mapping[ModelId, ModelProfile] = field(default_factory=dict[ModelId, ModelProfile])

    @property
    def position(self) -> StatePosition | None:
        """The sequences of the state that the fleet was read from, if it was."""
        fleet = self.fleet
        if fleet.telemetry_sequence is None or fleet.fleet_sequence is None:
            return None
        return StatePosition(telemetry_sequence=fleet.telemetry_sequence, fleet_sequence=fleet.fleet_sequence)

    def profile_of(self, request: PlacementRequest) -> ModelProfile:
        """Return the model that is asked for; raise CommandError with what was probably meant."""
        with needs("placer"):
            from shardbus_placer.models.catalogue import catalogue
        known, name = catalogue(), request.wanted_model_id
        profile = request.model or self.registered.get(name) or known.get(name)
        if profile is None:
            near = suggest(name, list(self.registered)) or known.did_you_mean(name)
            raise CommandError(f"no model is named {name!r}{near}; `shardbus models` lists them")
        return profile

    def variants_of(self, model: ModelProfile) -> Iterator[ModelProfile]:
        """Yield the same model in the catalogue's other quantisations."""
        with needs("placer"):
            from shardbus_placer.models.catalogue import catalogue, variants_of
        return variants_of(model.model_id, catalogue())

    def groups(self, search: str | None, family: str | None, *, everything: bool) -> list[list[ModelProfile]]:
        """Return the models to try: each as published with its other quantisations, or with ``everything`` each alone.

        Raises CommandError if none is left.
        """
        with needs("placer"):
            from shardbus_placer.models.catalogue import catalogue
        known = catalogue()
        families = [
            *([profile] for profile in self.registered.values()),
            *(
                [known[name] for name in known.variants(model)]
                for model in known.models
                if model not in self.registered
            ),
        ]
        wanted = [
            [profile for profile in profiles if (search or "") in profile.model_id and family in {None, profile.family}]
            for profiles in families
        ]
        if not any(wanted):
            which = " and ".join(
                text for text in (search and f"named like {search!r}", family and f"of the family {family!r}") if text
            )
            near = suggest(family, sorted({one[0].family or "" for one in families})) if family else ""
            raise CommandError(f"no model is {which}{near}; `shardbus models` lists them")
        return (
            [[profile] for profiles in wanted for profile in profiles] if everything else [one for one in wanted if one]
        )


def read_known(file: Path | None, nats_url: str | None) -> Known:
    """Return the fleet in ``file``, or without one the live fleet as of now; raise what ``exits`` knows."""
    if file is not None:
        return Known(_fleet_in(file))
    from shardbus_eventstore.fleet_view import fleet_of

    try:
        state = read_live_state(settings_for(CommonSettings, nats_url=nats_url))
    except BusUnreachableError as error:
        raise CommandError(f"{error}; or plan on a file with --fleet FILE", Exit.UNREACHABLE) from error
    models = {name: record.profile for name, record in state.models.items()}
    return Known(fleet_of(state, datetime.now(UTC)), models)


def position_json(known: Known) -> dict[str, StatePosition]:
    """Return what an answer's JSON says of the state it was made from."""
    return {} if known.position is None else {"position": known.position}


def print_position(known: Known) -> None:
    """Print the state that an answer was made from, where it was one of the streams."""
    if known.position is not None:
        at = known.position
        data.print(f"on the fleet as of TELEMETRY {at.telemetry_sequence}, FLEET {at.fleet_sequence}")


def read_live_state(settings: CommonSettings) -> FleetState:
    """Return the state of this moment, folded from the streams."""
    from shardbus_eventstore.live import read_state

    async def read() -> FleetState:
        async with open_bus(settings) as bus:
            return await read_state(bus)

    return asyncio.run(read())


def _fleet_in(file: Path) -> Fleet:
    if str(file) != "-":
        return read_fleet(file)
    try:
        return parse_fleet(sys.stdin.buffer.read().decode("utf-8-sig"), name="standard input")
    except UnicodeDecodeError as error:
        raise CommandError(f"standard input: not UTF-8: byte {error.start}") from error
