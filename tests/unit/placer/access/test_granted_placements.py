"""From a token to a plan, with the real planner: in the order in which a placer asks."""

from pathlib import Path

from shardbus_infra.files.fleet_file import read_fleet
from shardbus_placer.access.check import AccessProblem, check
from shardbus_placer.access.quota import memory_problem, narrowed, told
from shardbus_placer.models.catalogue import catalogue
from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_schemas.access import Grant
from shardbus_schemas.commands import Place
from shardbus_schemas.placement import Placed, Refused
from support.access_tokens import NOW, TRUSTING, rights_with, token_of

FLEET = read_fleet(Path(__file__).parents[4] / "examples" / "attic.json")


def placed(place: Place, *, promised: int = 0) -> Placed | Refused | AccessProblem:
    """Return what a placer makes of a command, whose subject has ``promised`` bytes already."""
    grant = check(place, TRUSTING, NOW)
    assert isinstance(grant, Grant)
    request = narrowed(place, grant, FLEET)
    if isinstance(request, AccessProblem):
        return request
    result = plan(FLEET, catalogue()[place.wanted_model_id], request, Policy())
    if isinstance(result, Refused):
        return told(result, grant)
    return memory_problem(grant, result, promised) or told(result, grant)


def asked(model: str, rights: dict[str, object]) -> Place:
    return Place(model_id=model, deadline_ms=10_000, access_token=token_of(rights_with(**rights)))


def test_a_plan_keeps_to_the_devices_of_the_grant_and_says_so() -> None:
    everywhere = placed(asked("llama-3.3-70b-4bit", {"devices": None, "memory_bytes": None}))
    assert isinstance(everywhere, Placed)
    assert {key.node_id for key in everywhere.memory_by_device} == {"attic"}
    assert everywhere.notes == ()
    for devices in (["desk"], ["desk/gpu", "attic/cuda:0"], ["desk/gpu", "nowhere"]):
        alone = placed(asked("llama-3.3-70b-4bit", {"devices": devices}))
        assert isinstance(alone, Placed)
        assert all(key in devices or key.node_id in devices for key in alone.memory_by_device)
        assert f"on {', '.join(devices)} alone: the access token of alice permits no other device" in alone.notes


def test_what_does_not_fit_within_the_grant_is_refused_with_remedies_that_the_grant_permits() -> None:
    refused = placed(asked("llama-3.3-70b-4bit", {"devices": ["attic/cuda:0"]}))
    assert isinstance(refused, Refused)
    said = [one.text for one in refused.refusal.remedies]
    assert "ask for an access token that permits more devices" in said
    assert not any("include" in text for text in (*said, refused.refusal.remedy or ""))
    assert "the access token of alice permits no other device" in refused.notes[-1]


def test_the_quota_counts_what_was_promised_before() -> None:
    first = placed(asked("llama-3.1-8b-4bit", {"memory_bytes": 10 * 2**30}))
    assert isinstance(first, Placed)
    size = sum(first.memory_by_device.values())
    assert 2 * size > 10 * 2**30 > size
    second = placed(asked("llama-3.1-8b-4bit", {"memory_bytes": 10 * 2**30}), promised=size)
    assert isinstance(second, AccessProblem)
    assert (second.code, second.required_bytes) == ("quota_exceeded", size)
    assert second.available_bytes == 10 * 2**30 - size
