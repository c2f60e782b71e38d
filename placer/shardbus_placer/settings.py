"""What the placer process can be told: by flags, environment, or the settings file's ``[placer]`` section."""

from typing import Annotated, ClassVar

from pydantic import Field
from shardbus_infra.settings import CommonSettings

from shardbus_placer.life_rules import LifeRules


class PlacerSettings(CommonSettings, LifeRules):  # pyright: ignore[reportIncompatibleVariableOverride] -- both configs hold
    """Settings of ``shardbus placer``."""

    section: ClassVar[str] = "placer"

    placer_name: str = "placer"
    """Who signs the decisions: the ``source`` of its events is ``placer/<name>``."""
    max_conflicts: Annotated[int, Field(ge=1, le=1000)] = 50
    """How often a placement is planned anew when other placers were faster. Of four equally fast ones each loses three
    races in four, so a few tries are soon used up."""
    catch_up_seconds: Annotated[float, Field(gt=0)] = 5.0
    """How long a command waits for the placer's state to reach what the streams held when it arrived."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """After this many failures of the placer itself, a command goes to the dead letters."""
    ack_wait_seconds: Annotated[float, Field(gt=0)] = 30.0
    """After this long without a word, the bus gives a command to another placer."""
