"""Every metric of shardbus, declared once: name, unit, and the attributes it is counted by.

Attributes come from closed sets (streams, known event types, codes), so that nobody can make a metric grow without
bound. Names follow OpenTelemetry; Prometheus sees ``shardbus_events_folded_total`` and so on.
"""

from shardbus_infra.observability.tracing import meter

_EVENTS_FOLDED = meter().create_counter(
    "shardbus.events.folded", unit="{event}", description="Events folded into the read model"
)
_UNKNOWN_SKIPPED = meter().create_counter(
    "shardbus.messages.unknown", unit="{message}", description="Messages of a type or version not known here, skipped"
)
_DEAD_LETTERS = meter().create_counter(
    "shardbus.dead_letters", unit="{message}", description="Messages that could not be understood or served"
)
_LAG_MESSAGES = meter().create_gauge(
    "shardbus.projector.lag.messages", unit="{message}", description="Messages in the stream not yet in the read model"
)
_LAG_SECONDS = meter().create_gauge(
    "shardbus.projector.lag.seconds", unit="s", description="Age of the newest message in the read model while behind"
)
_PLACEMENT_SECONDS = meter().create_histogram(
    "shardbus.placement.duration",
    unit="s",
    description="From a placement command's arrival to its answer",
    explicit_bucket_boundaries_advisory=[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30],
)
_REFUSALS = meter().create_counter(
    "shardbus.placement.refusals", unit="{refusal}", description="Placement commands refused"
)
_PUBLISHED = meter().create_counter(
    "shardbus.agent.messages.published", unit="{message}", description="Telemetry messages published"
)
_SUPPRESSED = meter().create_counter(
    "shardbus.agent.samples.suppressed", unit="{sample}", description="Samples not published: nothing changed enough"
)
_DROPPED = meter().create_counter(
    "shardbus.agent.messages.dropped",
    unit="{message}",
    description="Messages an agent gave up: refused for what they are, or too many while the bus was away",
)


def folded(*, stream: str, event_type: str, count: int = 1) -> None:
    """Count events folded; ``event_type`` is one of the registry's."""
    _EVENTS_FOLDED.add(count, {"stream": stream, "type": event_type})


def skipped(*, stream: str, count: int = 1) -> None:
    """Count messages skipped as unknown; by stream alone, since a stranger chose their type."""
    _UNKNOWN_SKIPPED.add(count, {"stream": stream})


def buried(*, stream: str, code: str, count: int = 1) -> None:
    """Count dead letters; ``stream`` is where they came from."""
    _DEAD_LETTERS.add(count, {"stream": stream, "code": code})


def lag(*, stream: str, messages: int, seconds: float) -> None:
    """Set how far the read model is behind a stream; both 0 when it has caught up."""
    _LAG_MESSAGES.set(messages, {"stream": stream})
    _LAG_SECONDS.set(seconds, {"stream": stream})


def placed(seconds: float, *, strategy: str) -> None:
    """Record how long an answer took, whatever it was; ``strategy`` is who answered."""
    _PLACEMENT_SECONDS.record(seconds, {"strategy": strategy})


def refused(*, code: str) -> None:
    """Count a refusal."""
    _REFUSALS.add(1, {"code": code})


def published(count: int = 1) -> None:
    """Count telemetry messages an agent published."""
    _PUBLISHED.add(count)


def suppressed(count: int = 1) -> None:
    """Count samples an agent did not publish."""
    _SUPPRESSED.add(count)


def dropped(count: int = 1) -> None:
    """Count messages an agent gave up."""
    _DROPPED.add(count)
