"""When a placer acts by itself, and how often: settings, as data."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Delay = Annotated[float, Field(ge=0, le=86_400)]


class LifeRules(BaseModel):
    """How placed instances are looked after. All times in seconds."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    lost_after_seconds: Delay = 0.0
    """How long a device may be gone before what ran there is placed elsewhere."""
    stale_after_seconds: Delay = 0.0
    """The same for a node that is silent, from the moment at which it counts as stale."""
    throttling_after_seconds: Delay = 300.0
    """How long a device may throttle before what runs there is planned anew."""
    memory_after_seconds: Delay = 60.0
    """How long others may take memory that was promised before somebody moves."""
    worthwhile_gain: Annotated[float, Field(ge=0, le=1)] = 0.1
    """How much better its objective must become for an instance to leave a slow device, or to move in a rebalance that
    names no threshold: 0.1 is a tenth."""
    back_off_seconds: Delay = 5.0
    """How long an instance waits that was displaced for the second time within the window; doubled for each more."""
    longest_back_off_seconds: Delay = 300.0
    """The most that it waits."""
    back_off_window_seconds: Delay = 600.0
    """For how long a displacement is remembered against it."""
    shard_bar_seconds: Delay = 300.0
    """How long a device is barred to an instance whose shard failed there; doubled for each failure more."""
    longest_shard_bar_seconds: Delay = 3600.0
    """The most that it is barred, however often it failed."""
    unstable_after: Annotated[int, Field(ge=1, le=8)] = 2
    """A device that went away so often within the window takes nothing for a while after it is back."""
    unstable_seconds: Delay = 30.0
    """For how long; doubled for each time more."""
    moves_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 120
    """How many instances of the fleet may be moved without a command within a minute."""
    repair_deadline_ms: Annotated[float, Field(gt=0, le=600_000)] = 250.0
    """Milliseconds that a plan may take which no command waits for, where its request allows more: others wait behind
    it. If that is too short for any answer, the request's own holds."""
    repair_horizon_tokens: Annotated[float, Field(gt=0)] = 10_000.0
    """For how many tokens a plan is expected to stand that is made because something was lost: few, so that little is
    moved and the instance is back soon."""
    move_horizon_tokens: Annotated[float, Field(gt=0)] = 1_000_000.0
    """The same where somebody asked for a better place: many, so that a better plan is worth its move."""
