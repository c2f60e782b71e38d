"""What infra tells a person when something is not as it needs it. Every text says what, where and what to do."""


class InfraError(Exception):
    """Base of what infra raises for the eyes of a person; the text is the whole message."""


class SettingsError(InfraError):
    """A setting has the wrong type, or nobody knows its name."""


class FileError(ValueError):
    """A file cannot be used. The text is for a person: which file and line, what is wrong, what to do."""


class MissingExtraError(InfraError):
    """A package is not installed that an optional part needs; the text names the extra that brings it."""


class EmbeddedServerError(InfraError):
    """An embedded server can not be started."""


class PortInUseError(EmbeddedServerError):
    """Somebody else listens on the port."""


class DataFolderError(EmbeddedServerError):
    """The data folder can not be used: not writable, not reachable, not ours, or of another version."""


class DataFolderInUseError(DataFolderError):
    """A live server of another owner runs on the data folder."""
