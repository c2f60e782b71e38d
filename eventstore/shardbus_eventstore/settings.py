"""What the projector can be told."""

from typing import Annotated, ClassVar

from pydantic import Field
from shardbus_infra.settings import CommonSettings


class ProjectorSettings(CommonSettings):
    """The settings of ``shardbus projector``; in a settings file also under ``[projector]``."""

    section: ClassVar[str] = "projector"

    projector_max_batch: Annotated[int, Field(ge=1, le=50_000)] = 2000
    """Messages in one transaction at most; it bounds memory, and how long the process is busy with one of them."""
    projector_partitions: Annotated[int, Field(ge=1, le=64)] = 1
    """Into how many parts the projection of ``TELEMETRY`` is shared, by node. All projectors must say the same."""
    projector_partitions_held: Annotated[int, Field(ge=1)] | None = None
    """How many of the parts this process takes at most; unset is all. With 2 parts, two processes take 1 each."""
    history_keep_days: Annotated[float, Field(gt=0)] = 7
    """How long the devices' past readings are kept; whole days (UTC) are dropped once their time is over."""
    history_minutes_keep_days: Annotated[float, Field(gt=0)] = 30
    """How long the devices' minutes are kept, likewise."""
    history_hours_keep_days: Annotated[float, Field(gt=0)] = 730
    """How long the devices' hours are kept."""
    snapshot_minutes: Annotated[float, Field(gt=0)] = 10
    """How often a snapshot of the state is published for those who start, if anything happened since."""
    snapshot_events: Annotated[int, Field(ge=1)] = 100_000
    """After so many messages a snapshot is published earlier, though at most one a minute."""
    postgres_wait_seconds: Annotated[float, Field(ge=0)] = 10
    """How long to wait for Postgres at the start before giving up. Later it is waited for without end."""
