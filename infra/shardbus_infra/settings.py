"""What every process can be told, and where it is looked for: flags, environment, settings file, defaults."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import AfterValidator, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from shardbus_infra.errors import SettingsError

PREFIX = "SHARDBUS_"
FILE_VARIABLE = "SHARDBUS_CONFIG"
DEFAULT_FILE = Path("shardbus.toml")
SECTIONS = ("agent", "projector", "placer", "console")
"""Tables that a settings file may have beside the common keys on top."""

_AUTHORITY = re.compile(r"(?<=://)[^\s/?#]*(?=@)")
_SECRET_NAME = re.compile(r"password|token|secret|credential|(^|_)key($|_)|seed|nkey")
_PARAMETER = re.compile(r"(?i)([?&](?:[a-z_]*password|[a-z_]*token|[a-z_]*secret)=)[^&\s]*")


def default_data_folder() -> Path:
    """Return where data goes if nobody says: ``/var/lib/shardbus`` for root, else by XDG_STATE_HOME."""
    if os.geteuid() == 0:
        return Path("/var/lib/shardbus")
    state_home = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    base = Path(state_home) if state_home.startswith("/") else Path.home() / ".local" / "state"
    return base / "shardbus"


def _with_driver(url: str) -> str:
    """Return the URL for the driver that is installed: what hosters hand out names none."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise ValueError("it is to start with postgresql://")
    return f"postgresql+psycopg://{rest}"


class CommonSettings(BaseSettings):
    """The settings that all processes share. A process extends this class and names its ``section`` of the file.

    First wins: what the constructor is given (a command's flags), an environment variable ``SHARDBUS_<NAME>``, the
    process' section of the settings file, the file's keys on top, the default. The file is TOML, named by
    SHARDBUS_CONFIG, else ``shardbus.toml`` in the working directory if there is one. Raises SettingsError.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, use_attribute_docstrings=True
    )

    section: ClassVar[str] = ""

    nats_url: str = "nats://127.0.0.1:4222"
    """Where the bus is; several servers of a cluster are separated by commas."""
    postgres_url: Annotated[str, AfterValidator(_with_driver)] = "postgresql+psycopg://shardbus@127.0.0.1:5432/shardbus"
    """Where the read model is, as SQLAlchemy writes it."""
    stream_replicas: Annotated[int, Field(ge=1, le=5)] | None = None
    """On how many servers of a cluster each stream is; unset leaves streams as they are, and makes new ones on one."""
    telemetry_keep_hours: Annotated[float, Field(gt=0)] | None = None
    """How long the bus keeps readings; unset leaves the stream as it is, a new one keeps 24 hours."""
    telemetry_keep_bytes: Annotated[int, Field(ge=1_000_000)] | None = None
    """How much of readings the bus keeps, set aside on its disk; unset as above, a new stream keeps 2 GiB."""
    data_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Field(default_factory=default_data_folder)
    """Where embedded servers keep their data."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is worth a line on stderr."""
    log_format: Literal["text", "json"] = "text"
    """Lines for people, or a JSON object each."""
    otel_exporter: Literal["none", "otlp", "prometheus"] = "none"
    """Where traces and metrics go; ``prometheus`` has no traces."""
    otlp_endpoint: str = "http://127.0.0.1:4318"
    """A collector's OTLP over HTTP address, without ``/v1/…``."""
    prometheus_host: str = "127.0.0.1"
    """Where the metrics page listens."""
    prometheus_port: Annotated[int, Field(ge=1, le=65535)] = 9464
    """Its port; each process needs one of its own."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except SourceError as error:  # a variable for a structured field that is not JSON
            raise SettingsError(f"{error}: {error.__cause__}") from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the base's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the base's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, the winning one first."""
        return init_settings, env_settings, SettingsFile(settings_cls)

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Say where a bad value was found, in words for whoever wrote it there."""
        try:
            return handler(values)
        except ValidationError as error:
            given = cast("dict[str, Any]", values)
            raise SettingsError("\n".join(_complaint(cls, given, problem) for problem in error.errors())) from None

    def describe(self) -> str:
        """Return one line per setting, secrets hidden."""
        rows = list(self.__repr_args__())
        width = max(len(name or "") for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Hide passwords from whoever prints the settings, in a log or a traceback."""
        for name in type(self).model_fields:
            value: object = getattr(self, name)
            yield name, hide_passwords(value) if isinstance(value, str) else value

    def __str__(self) -> str:
        """Return what ``describe`` returns, in one line."""
        return self.__repr_str__(" ")


class SettingsFile(PydanticBaseSettingsSource):
    """The settings file as a source: the common keys on top, with one process' section over them."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 -- the base's signature
        """Return a value by field; unused, since the whole file is read at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the values for this class; raises SettingsError for a key that nobody reads."""
        file = settings_file()
        if file is None:
            return {}
        settings = cast("type[CommonSettings]", self.settings_cls)
        document = read_settings_file(file)
        top = {key: value for key, value in document.items() if key not in SECTIONS}
        common = set(CommonSettings.model_fields)
        for key in top:
            if key not in common:
                raise SettingsError(_unknown(f"{file}: ", key, common | set(SECTIONS), settings))
        part: object = document.get(settings.section, {}) if settings.section else {}
        if not isinstance(part, Mapping):
            raise SettingsError(f"{file}: {settings.section} is to be a table: [{settings.section}]")
        section = cast("Mapping[str, Any]", part)
        for key in section:
            if key not in settings.model_fields:
                raise SettingsError(_unknown(f"{file}, [{settings.section}]: ", key, settings.model_fields, settings))
        return {**top, **section}


def settings_file() -> Path | None:
    """Return the settings file in force; raises SettingsError if SHARDBUS_CONFIG names one that is not there."""
    named = os.environ.get(FILE_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise SettingsError(f"{FILE_VARIABLE} names {named}, but there is no such file")
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def read_settings_file(file: Path) -> dict[str, Any]:
    """Return the parsed file; raises SettingsError with the place of a mistake."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"can not read the settings file {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not TOML: {error}") from error


def hide_passwords(text: str) -> str:
    """Return the text with the password (or the token) of every URL in it replaced by ``***``."""
    return _PARAMETER.sub(r"\1***", _AUTHORITY.sub(_hidden_authority, text))


def _hidden_authority(found: re.Match[str]) -> str:
    user, colon, _ = found.group().partition(":")
    # Without a colon it is a user in a Postgres URL but a token in a NATS URL.
    is_token = not colon and found.string[: found.start()].endswith(("nats://", "tls://", "ws://", "wss://"))
    return "***" if is_token else f"{user}:***" if colon else user


def _unknown(place: str, key: str, known: Iterable[str], settings: type[CommonSettings]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    if near:
        hint = f"; did you mean {near[0]}?"
    elif key in settings.model_fields:
        hint = f"; it belongs into the table [{settings.section}]"
    else:
        hint = f"; known are {', '.join(sorted(known))}"
    return f"{place}unknown key {key}{hint}"


def _complaint(settings: type[CommonSettings], values: Mapping[str, Any], problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a setting, and where it was found."""
    path = [str(part) for part in problem["loc"]]
    name = path[0] if path else ""
    if problem["type"] == "extra_forbidden":
        return _unknown("", name, settings.model_fields, settings)
    variable = f"{PREFIX}{name}".upper()
    # Environment variables are looked for case-insensitively.
    in_environment = next((key for key in os.environ if key.upper() == variable), None)
    file = settings_file()
    in_file = read_settings_file(file) if file else {}
    value = values.get(name)
    if in_environment and os.environ[in_environment] == (value if isinstance(value, str) else json.dumps(value)):
        place = f"environment variable {in_environment}"
    elif file and name in in_file.get(settings.section, {}) and in_file[settings.section][name] == value:
        place = f"{file}, [{settings.section}] {name}"
    elif file and name in in_file and in_file[name] == value:
        place = f"{file}, {name}"
    else:
        place = f"setting {name}"
    inner = f" at {'.'.join(path[1:])}" if path[1:] else ""
    text = f"{place}{inner}: {str(problem['msg']).removeprefix('Value error, ')}"
    if _SECRET_NAME.search(name):
        return text
    return f"{text}, got {hide_passwords(repr(problem['input']))[:120]}"
