"""What the placer process can be told: by flags, environment, or the settings file's ``[placer]`` section."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
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
    access_keys: Annotated[Path, AfterValidator(Path.expanduser)] | None = None
    """The public keys that access tokens may be signed with: a JSON Web Key or set of them, or a folder of such files.

    They are read again when they change. Unset, no access token is accepted.
    """
    require_access_token: bool = False
    """Refuse commands without an access token; otherwise they are the owner's own and may do anything."""
