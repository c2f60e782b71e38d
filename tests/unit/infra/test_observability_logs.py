"""What a log line holds, for people and for machines, and what it never holds."""

import io
import json
import logging
from collections.abc import Generator
from datetime import datetime
from typing import Literal

import pytest
from shardbus_infra.observability import configure_logging, following
from shardbus_infra.settings import CommonSettings

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture(autouse=True)
def logging_as_before() -> Generator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("shardbus_")]:
        logging.getLogger(name).setLevel(logging.NOTSET)


def logs(form: Literal["text", "json"], level: Literal["debug", "info", "warning"] = "info") -> io.StringIO:
    stream = io.StringIO()
    settings = CommonSettings(log_format=form, log_level=level)
    configure_logging(settings, process="placer", stream=stream)
    return stream


def test_a_line_for_people_names_what_it_is_about() -> None:
    stream = logs("text")
    with following("placement", HEADERS):
        logging.getLogger("shardbus_placer.process").info(
            "placed %s", "llama", extra={"event_id": "e-1", "stream_sequence": 17, "why": "it fits"}
        )
    line = stream.getvalue()
    assert " INFO    placer  placed llama  event_id=e-1 stream_sequence=17" in line
    assert f'why="it fits" trace_id={TRACE}\n' in line


def test_a_line_for_machines_is_one_json_object() -> None:
    stream = logs("json")
    with following("placement", HEADERS):
        logging.getLogger("shardbus_placer").warning(
            "two\nlines", extra={"event_id": "e-1", "stream_sequence": 17, "level": "forged", "data": {1}}
        )
    line = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "level": "warning",
        "process": "placer",
        "logger": "shardbus_placer",
        "message": "two\nlines",
        "event_id": "e-1",
        "stream_sequence": 17,
        "data": "{1}",
        "trace_id": TRACE,
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_logged(form: Literal["text", "json"]) -> None:
    stream = logs(form)
    logging.getLogger("shardbus_infra").error(
        "lost %s",
        "postgresql://u:hunter2@h/d",
        extra={"access_token": "hunter2", "url": "nats://hunter2@h"},
        exc_info=ConnectionError("can not reach nats://u:hunter2@h"),
    )
    assert "hunter2" not in stream.getvalue()
    assert "can not reach nats://u:***@h" in stream.getvalue()
    assert "ConnectionError" in stream.getvalue()


def test_others_are_heard_from_a_warning_on_and_we_from_our_level_on() -> None:
    stream = logs("text", "debug")
    logging.getLogger("nats").info("chatter")
    logging.getLogger("nats").warning("trouble")
    logging.getLogger("shardbus_agents").debug("detail")
    assert [line.split("  ")[-1] for line in stream.getvalue().splitlines()] == ["trouble", "detail"]
    stream = logs("text", "warning")
    logging.getLogger("shardbus_agents").info("detail")
    assert stream.getvalue() == ""
