"""What a client believes of a cluster's servers, and what it lets pass."""

import json
from typing import Any

import pytest
from shardbus_infra.bus.nats_append import acknowledged
from shardbus_infra.bus.nats_connection import is_led
from shardbus_infra.bus.port import Appended, AppendRejectedError, AppendTimeoutError, WrongSequenceError

SECOND = 1_000_000_000


def others(*active_seconds: float) -> list[dict[str, Any]]:
    return [{"name": f"s{n}", "current": True, "active": int(s * SECOND)} for n, s in enumerate(active_seconds)]


@pytest.mark.parametrize(
    ("cluster", "believed"),
    [
        (None, True),  # no cluster at all
        ({"leader": "a"}, True),  # one copy
        ({}, False),  # one copy, its server away
        ({"leader": "a", "replicas": others(0.1, 0.9)}, True),
        ({"leader": "a", "replicas": others(0.1, 60)}, True),  # one of three is down
        ({"leader": "a", "replicas": others(14.2, 14.2)}, False),  # cut off, and has not noticed
        ({"leader": "a", "replicas": others(0, 0)}, False),  # elected, or scaled up, and nobody answered yet
        ({"replicas": others(0.1, 0.1, 0.1)}, False),  # an election goes on
        ({"leader": "a", "replicas": others(0.1, 0.1, 60, 60)}, True),
        ({"leader": "a", "replicas": others(0.1, 60, 60, 60)}, False),
    ],
)
def test_a_leader_is_believed_while_most_answered_it_a_moment_ago(
    cluster: dict[str, Any] | None, believed: bool
) -> None:
    assert is_led(cluster) is believed


def refusal(code: int) -> bytes:
    return json.dumps({"error": {"code": 500, "err_code": code, "description": "no"}, "stream": "FLEET"}).encode()


def test_what_the_server_cannot_tell_yet_is_no_refusal() -> None:
    assert acknowledged(b'{"stream":"FLEET", "seq":7}') == Appended("FLEET", 7)
    for code in (10008, 10009, 10158):
        with pytest.raises(AppendTimeoutError, match=str(code)):
            acknowledged(refusal(code))
    with pytest.raises(WrongSequenceError):
        acknowledged(refusal(10071))
    with pytest.raises(AppendRejectedError):
        acknowledged(refusal(10077))
