"""What the event store tells a person: what is wrong, where, and what to do."""


class EventStoreError(Exception):
    """Base of what the event store raises for the eyes of a person; the text is the whole message."""


class DatabaseUnreachableError(EventStoreError):
    """No Postgres answered, or it let nobody in."""


class DatabaseRightsError(EventStoreError):
    """The database user may not do what is needed."""


class SchemaError(EventStoreError):
    """The read model's tables are not those of this program."""


class HistoryDivergedError(EventStoreError):
    """The stream is not the one that the read model was folded from."""


class HistoryLostError(EventStoreError):
    """The stream lost messages that the read model has not seen, and cannot be right without them."""


class PoisonError(EventStoreError):
    """A message did harm and is tried again, alone or among fewer, before it is parked."""

    def __init__(self, reason: str, *, alone: bool = True) -> None:
        super().__init__(reason)
        self.alone: bool = alone
        """Whether it is known which message it is."""


class SharingError(EventStoreError):
    """The stream is projected in another number of parts, from which this number cannot go on."""


class ProjectorFencedError(EventStoreError):
    """Another projector took over; this one may write nothing any more."""


class ReplayRunsError(EventStoreError):
    """Another process replays already."""


class ReplayError(EventStoreError):
    """A replay cannot go on; what it did so far stays for the next."""


class ReadModelInUseError(EventStoreError):
    """Something of other people's hangs on the tables that are to be replaced."""
