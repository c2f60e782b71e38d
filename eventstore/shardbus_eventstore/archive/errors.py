"""What an archive tells a person."""

from shardbus_eventstore.errors import EventStoreError


class ArchiveError(EventStoreError):
    """An archive cannot be read or written. The text says which file, what is wrong and what to do."""


class ArchiveDamagedError(ArchiveError):
    """A file of the archive is missing, or is not what the manifest says: nothing of it is used."""


class ArchiveMismatchError(ArchiveError):
    """The archive is of another stream than the one that is there."""


class ArchiveInUseError(ArchiveError):
    """Another process writes to the archive."""
