"""Structured logs on stderr: a line for people, or a JSON object per line for machines."""

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

from opentelemetry import trace
from typing_extensions import override

from shardbus_infra.settings import CommonSettings, hide_passwords

PACKAGES = (
    "shardbus_infra",
    "shardbus_eventstore",
    "shardbus_agents",
    "shardbus_placer",
    "shardbus_console",
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_SECRET = re.compile(r"(?i)(password|token|secret|credential|private_key|nkey|seed)$")
_PLAIN = re.compile(r"[^\s\"=]+")


def configure_logging(settings: CommonSettings, *, process: str, stream: TextIO | None = None) -> None:
    """Log our packages at the level of the settings and everybody else's warnings; replaces what was configured."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(process) if settings.log_format == "json" else TextLines(process))
    root = logging.getLogger()
    for previous in root.handlers[:]:
        root.removeHandler(previous)
    root.addHandler(handler)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root.setLevel(max(level, logging.WARNING))
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what ``extra`` gave (``event_id``, ``stream_sequence``, …) and the current trace, secrets hidden."""
    found = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        found.setdefault("trace_id", trace.format_trace_id(span.trace_id))
    return {name: _without_secret(name, value) for name, value in found.items()}


def _without_secret(name: str, value: Any) -> Any:
    if _SECRET.search(name):
        return "***"
    return hide_passwords(value) if isinstance(value, str) else value


class TextLines(logging.Formatter):
    """``19:54:51.447 INFO    placer  placed llama  event_id=… stream_sequence=17``."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the traceback below it if there is one."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        pairs = " ".join(f"{name}={_quoted(value)}" for name, value in fields(record).items())
        line = f"{time} {record.levelname:<7} {self._process}  {hide_passwords(record.getMessage())}"
        return "\n".join(part for part in (f"{line}  {pairs}" if pairs else line, _traceback(record)) if part)


class JsonLines(logging.Formatter):
    """One JSON object per line, on one line whatever the message holds."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": hide_passwords(record.getMessage()),
        }
        document |= {name: value for name, value in fields(record).items() if name not in document}
        if text := _traceback(record):
            document["exception"] = text
        return json.dumps(document, default=str, ensure_ascii=False)


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return hide_passwords("".join(traceback.format_exception(*record.exc_info)).rstrip())


def _quoted(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
