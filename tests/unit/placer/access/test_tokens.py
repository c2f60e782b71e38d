"""Every way in which a token can be wrong is a refusal that says which, and never shows the token."""

import json
from datetime import timedelta
from typing import Any

import pytest
from shardbus_placer.access.check import LEEWAY, Access, AccessProblem, check, grant_of, operation_of
from shardbus_placer.access.claims import claims_of
from shardbus_placer.access.keys import PublicKey, private_key_of
from shardbus_placer.access.token import open_token, seal
from shardbus_schemas import commands
from shardbus_schemas.access import Grant
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import PlacementRequest
from support.access_tokens import (
    ALICE,
    GOOD,
    HEADER,
    NOW,
    OWNER,
    STRANGER,
    TRUSTING,
    base64url,
    claims_with,
    rights_with,
    segment,
    signed_with_the_public_key,
    token_of,
    unsigned,
)

WHOLE = token_of()
BELOW = "[" * 4000


def refused(token: str, access: Access = TRUSTING) -> AccessProblem:
    """Return why ``token`` is refused; what is said about it never repeats it."""
    found = grant_of(token, access, NOW)
    assert isinstance(found, AccessProblem)
    for part in token.split("."):
        assert len(part) < 12 or part not in repr(found)
    return found


def test_a_good_token_is_its_grant() -> None:
    assert grant_of(WHOLE, TRUSTING, NOW) == ALICE


def test_what_is_granted_is_what_is_opened() -> None:
    assert grant_of(seal(claims_of(ALICE), OWNER), TRUSTING, NOW) == ALICE


def test_the_example_of_rfc_8037_is_signed_and_opened() -> None:
    """Appendix A: a key, its thumbprint, and a signature by it."""
    jwk = {
        "kty": "OKP",
        "crv": "Ed25519",
        "kid": "rfc",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
    key = private_key_of(json.dumps(jwk), file="rfc.jwk")
    said = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    assert base64url(key.sign(said.encode())) == signature


def test_both_names_of_the_algorithm_open() -> None:
    for name in ("EdDSA", "Ed25519"):
        assert grant_of(token_of(header=HEADER | {"alg": name}), TRUSTING, NOW) == ALICE


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "not all of one"),
        ("x", "not all of one"),
        ("..", "not all of one"),
        ("a.b.c", "not all of one"),
        (WHOLE[:-1], "not all of one"),
        (WHOLE[: len(WHOLE) // 2], "not all of one"),
        (WHOLE + "=", "not all of one"),
        (WHOLE + ".x", "not all of one"),
        (f" {WHOLE}", "not all of one"),
        (WHOLE + "\n", "not all of one"),
        (WHOLE.replace("e", "é"), "not all of one"),
        ("\ud800" + WHOLE, "not all of one"),
        (f"{segment(BELOW.encode())}.{segment(GOOD)}.{base64url(bytes(64))}", "not all of one"),
        (token_of(header=[1]), "not all of one"),
        (token_of(header=b"\xff"), "not all of one"),
        (token_of(header=HEADER | {"kid": 3}), "not all of one"),
        (token_of(header=HEADER | {"crit": ["exp"], "exp": 1}), "not all of one"),
        (token_of(header=HEADER | {"crit": ["b64"], "b64": False}), "not all of one"),
        (token_of(claims_with(x="y" * 8192)), "not all of one"),
        (unsigned(), "not signed with Ed25519"),
        (unsigned("None"), "not signed with Ed25519"),
        (unsigned(None), "not signed with Ed25519"),
        (unsigned(["EdDSA"]), "not signed with Ed25519"),
        (unsigned("EdDSA"), "changed after it was signed"),
        (signed_with_the_public_key(), "not signed with Ed25519"),
        (token_of(header=HEADER | {"alg": "RS256"}), "not signed with Ed25519"),
        (token_of(header={"kid": "owner"}), "not signed with Ed25519"),
        (token_of(key=STRANGER), "another key than 'owner'"),
        (token_of(header={"alg": "EdDSA"}), "a key that this placer does not know: it names none"),
        (token_of(header=HEADER | {"kid": "stranger"}, key=STRANGER), "does not know: kid 'stranger'"),
        (token_of(header=HEADER | {"kid": "\x1b[2J" + "k" * 500}), "does not know: kid '\\x1b[2Jkkk"),
        (WHOLE[:-86] + base64url(bytes(64)), "changed after it was signed"),
        (WHOLE[:-86] + base64url(bytes(63)), "changed after it was signed"),
        (WHOLE[:-86], "changed after it was signed"),
        (f"{segment(HEADER)}.{segment(claims_with(sub='bob'))}.{WHOLE[-86:]}", "changed after it was signed"),
        (f"{segment(HEADER | {'x': 1})}.{WHOLE.partition('.')[2]}", "changed after it was signed"),
    ],
)
def test_what_is_no_whole_token_of_a_known_key_is_invalid(token: str, said: str) -> None:
    problem = refused(token)
    assert problem.code == "access_invalid"
    assert said in problem.message
    assert len(problem.text) < 400


def test_a_stranger_is_told_where_his_key_would_have_to_be() -> None:
    assert "/etc/shardbus/keys" in refused(token_of(header=HEADER | {"kid": "stranger"}, key=STRANGER)).remedy


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ([1], "all"),
        (b"", "all"),
        (b"not JSON", "all"),
        (b"\xff\xfe", "all"),
        (BELOW.encode(), "all"),
        ({}, "aud, exp, shardbus, sub"),
        (claims_with(sub=None), "sub"),
        (claims_with(sub=""), "sub"),
        (claims_with(sub=7), "sub"),
        (claims_with(sub="a" * 301), "sub"),
        (claims_with(sub="\x1b[2Jalice"), "sub"),
        (claims_with(aud=None), "aud"),
        (claims_with(aud=1), "aud"),
        (claims_with(exp=None), "exp"),
        (claims_with(exp="tomorrow"), "exp"),
        (claims_with(exp=True), "exp"),
        (claims_with(exp=-1), "exp"),
        (claims_with(exp=10**400), "exp"),
        (claims_with(exp=float("inf")), "exp"),
        (claims_with(exp=float("nan")), "exp"),
        (claims_with(nbf="now"), "nbf"),
        (claims_with(nbf=10**15), "nbf"),
        (claims_with(jti=5), "jti"),
        (claims_with(shardbus=None), "shardbus"),
        (claims_with(shardbus="all"), "shardbus"),
        (rights_with(devices="attic"), "shardbus.devices"),
        (rights_with(devices=[""]), "shardbus.devices"),
        (rights_with(devices=[1]), "shardbus.devices"),
        (rights_with(memory_bytes=-1), "shardbus.memory_bytes"),
        (rights_with(memory_bytes="48GiB"), "shardbus.memory_bytes"),
        (rights_with(memory_bytes=2**70), "shardbus.memory_bytes"),
        (rights_with(max_priority=1001), "shardbus.max_priority"),
        (rights_with(max_priority=None), "shardbus.max_priority"),
        (rights_with(operations=["everything"]), "shardbus.operations"),
        (rights_with(operations="place"), "shardbus.operations"),
        (rights_with(models=["tiny"]), "shardbus.models"),
    ],
)
def test_a_claim_that_is_wrong_is_named(claims: object, said: str) -> None:
    problem = refused(token_of(claims))
    assert problem.code == "access_invalid"
    assert problem.message.endswith(f"claims that are needed: {said}")


def test_a_right_that_this_version_does_not_know_is_not_passed_over_since_it_may_take_something_away() -> None:
    assert "shardbus.only_on_sundays" in refused(token_of(rights_with(only_on_sundays=True))).message


def test_claims_of_others_are_passed_over() -> None:
    assert (
        grant_of(token_of(claims_with(iss="https://idp", iat=1, email="a@b", roles=["admin"])), TRUSTING, NOW) == ALICE
    )


def test_what_is_not_said_is_granted_as_the_schema_has_it() -> None:
    grant = grant_of(token_of(claims_with(shardbus={}, jti=None)), TRUSTING, NOW)
    assert grant == Grant(subject="alice", issuer="owner", expires_at=ALICE.expires_at)


@pytest.mark.parametrize("audience", ["shardbus", ["shardbus"], ["other", "shardbus"]])
def test_a_token_for_us_opens(audience: object) -> None:
    assert grant_of(token_of(claims_with(aud=audience)), TRUSTING, NOW) == ALICE


@pytest.mark.parametrize("audience", ["", "Shardbus", "shardbus2", [], ["other"]])
def test_a_token_for_another_service_does_not(audience: object) -> None:
    assert "another service" in refused(token_of(claims_with(aud=audience))).message


def test_it_ends_when_it_says_but_for_the_difference_of_clocks() -> None:
    end = ALICE.expires_at
    assert end is not None
    assert grant_of(WHOLE, TRUSTING, end + LEEWAY - timedelta(microseconds=1)) == ALICE
    problem = grant_of(WHOLE, TRUSTING, end + LEEWAY)
    assert isinstance(problem, AccessProblem)
    assert problem.code == "access_expired"
    assert problem.message == (
        "the access token of alice ended at 2026-12-03 12:00:00 UTC; it is 2026-12-03 12:00:30 UTC"
    )


def test_it_begins_when_it_says_but_for_the_difference_of_clocks() -> None:
    begins = NOW + timedelta(hours=1)
    token = token_of(claims_with(nbf=begins.timestamp()))
    assert grant_of(token, TRUSTING, begins - LEEWAY) == ALICE.model_copy(update={"not_before": begins})
    problem = grant_of(token, TRUSTING, begins - LEEWAY - timedelta(microseconds=1))
    assert isinstance(problem, AccessProblem)
    assert (problem.code, "begins at 2026-11-26 13:00:00 UTC" in problem.message) == ("access_invalid", True)


@pytest.mark.parametrize("where", [None, "/etc/keys"])
def test_without_any_key_a_token_is_refused_with_what_to_set(where: str | None) -> None:
    problem = refused(WHOLE, Access({}, where=where))
    assert (problem.code, "SHARDBUS_ACCESS_KEYS" in problem.remedy) == ("access_invalid", True)


def test_a_weak_public_key_opens_nothing() -> None:
    """The neutral element: with it a signature of zeros fits a share of all messages, where nobody looks."""
    weak = PublicKey("owner", bytes([1]) + bytes(31))
    for number in range(20):
        said = f"{segment(HEADER)}.{segment(claims_with(jti=str(number)))}"
        assert refused(f"{said}.{base64url(bytes([1]) + bytes(63))}", Access({"owner": weak})).code == "access_invalid"


def test_a_command_without_a_token_is_the_owners_own_unless_one_is_required() -> None:
    place = commands.Place(model_id="tiny")
    assert check(place, TRUSTING, NOW) is None
    problem = check(place, Access(TRUSTING.keys, required=True), NOW)
    assert isinstance(problem, AccessProblem)
    assert problem.code == "access_required"
    assert "--access-token-file" in problem.text


def test_a_bad_token_is_no_better_than_none_where_none_is_required() -> None:
    problem = check(commands.Place(model_id="tiny", access_token="x"), TRUSTING, NOW)
    assert isinstance(problem, AccessProblem)


COMMANDS: dict[str, list[Any]] = {
    "place": [commands.Place(model_id="tiny", access_token=WHOLE)],
    "delete": [commands.Delete(instance_id="i", access_token=WHOLE)],
    "move": [
        commands.Move(instance_id="i", access_token=WHOLE),
        commands.Replan(instance_id="i", access_token=WHOLE),
    ],
    "scale": [commands.Scale(model_id="tiny", replicas=2, access_token=WHOLE)],
    "cordon": [
        kind(node_id="attic", access_token=WHOLE) for kind in (commands.Cordon, commands.Drain, commands.Uncordon)
    ],
    "rebalance": [commands.Rebalance(access_token=WHOLE)],
    "model": [
        commands.RegisterModel(profile=ModelProfile(model_id="tiny", layers=1, layer_bytes=1), access_token=WHOLE)
    ],
}


@pytest.mark.parametrize(
    ("operation", "command"), [(name, one) for name, several in COMMANDS.items() for one in several]
)
def test_a_command_needs_its_operation(operation: str, command: commands.Command) -> None:
    assert operation_of(command) == operation
    for may in ([operation], []):
        token = token_of(rights_with(operations=may))
        answer = check(command.model_copy(update={"access_token": token}), TRUSTING, NOW)
        if may:
            assert isinstance(answer, Grant)
        else:
            assert isinstance(answer, AccessProblem)
            assert answer.code == "access_denied"
            assert f"does not permit {operation}; it permits nothing" in answer.message


def test_every_kind_of_command_is_tried_here() -> None:
    tried = {type(one) for several in COMMANDS.values() for one in several}
    assert tried == set(commands.Command.__args__)


@pytest.mark.parametrize(("priority", "permitted"), [(-1000, True), (0, True), (10, True), (11, False), (1000, False)])
def test_a_priority_above_the_granted_is_denied(priority: int, *, permitted: bool) -> None:
    answer = check(commands.Place(model_id="tiny", priority=priority, access_token=WHOLE), TRUSTING, NOW)
    if permitted:
        assert answer == ALICE
    else:
        assert isinstance(answer, AccessProblem)
        assert (answer.code, f"up to 10, not {priority}" in answer.message) == ("access_denied", True)


def test_the_opened_token_says_who_signed() -> None:
    assert open_token(WHOLE, TRUSTING.keys) == (json.dumps(GOOD).encode(), OWNER.public)


def test_a_problem_is_a_refusal_with_its_numbers() -> None:
    problem = AccessProblem("quota_exceeded", "too much", "ask for less", 5, 3, 2)
    refusal = problem.refusal()
    assert (refusal.code, refusal.required_bytes, refusal.available_bytes, refusal.missing_bytes) == (
        "quota_exceeded",
        5,
        3,
        2,
    )
    assert problem.text == "too much; ask for less"


def test_no_token_is_shown_by_the_commands_or_requests_that_carry_one() -> None:
    carrying = [one for several in COMMANDS.values() for one in several]
    for thing in (*carrying, PlacementRequest(model_id="tiny", access_token=WHOLE)):
        assert WHOLE not in repr(thing)
        assert WHOLE not in str(thing)
        assert WHOLE not in f"{thing!r:}"


def test_no_private_key_is_shown() -> None:
    assert OWNER.jwk()["d"] not in repr(OWNER)
    assert repr(OWNER.seed) not in repr(OWNER)
