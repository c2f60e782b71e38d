"""A token opens as it was sealed, and not at all if a bit of it is another."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from shardbus_placer.access.check import AccessProblem, grant_of
from shardbus_placer.access.claims import claims_of
from shardbus_placer.access.quota import narrowed, permits
from shardbus_placer.access.token import MOST_CHARACTERS, seal
from shardbus_schemas.access import Grant
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetNode
from shardbus_schemas.placement import PlacementRequest
from support.access_tokens import ALICE, NOW, OWNER, TRUSTING, segment, token_of

WHOLE = token_of()
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20)
LATER = st.integers(int(NOW.timestamp()), int(datetime(9999, 1, 1, tzinfo=UTC).timestamp())).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)
EARLIER = st.integers(0, int(NOW.timestamp())).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
GRANTS = st.builds(
    Grant,
    subject=WORDS,
    issuer=st.just("owner"),
    token_id=st.none() | WORDS,
    devices=st.none() | st.lists(WORDS, max_size=5).map(tuple),
    memory_bytes=st.none() | st.integers(0, 2**62),
    max_priority=st.integers(-1000, 1000),
    operations=st.lists(st.sampled_from(["place", "delete", "move", "scale", "cordon", "rebalance", "model"])).map(
        tuple
    ),
    not_before=st.none() | EARLIER,
    expires_at=LATER,
)
NODES = st.sampled_from(["a", "b", "c"])
FLEET = Fleet(
    nodes=tuple(
        FleetNode(node_id=node, devices=tuple(FleetDevice(device_id=device) for device in "xy")) for node in "abc"
    )
)
NAMES = NODES | st.builds("{}/{}".format, NODES, st.sampled_from(["x", "y"]))


@given(GRANTS)
def test_a_grant_is_sealed_and_opened(grant: Grant) -> None:
    token = seal(claims_of(grant), OWNER)
    assert len(token) <= MOST_CHARACTERS
    assert grant_of(token, TRUSTING, NOW) == grant


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 7))
@example(len(WHOLE) - 1, 0)
@example(len(WHOLE) - 1, 1)  # bits of the last character that no byte of the signature needs
def test_another_bit_is_another_token(place: int, bit: int) -> None:
    changed = WHOLE[:place] + chr(ord(WHOLE[place]) ^ (1 << bit)) + WHOLE[place + 1 :]
    assert isinstance(grant_of(changed, TRUSTING, NOW), AccessProblem)


def test_every_other_character_at_the_seams_is_another_token() -> None:
    """Where lax readers of base64 take several spellings for one."""
    seams = [*range(3), *(place for place, sign in enumerate(WHOLE) if sign == "."), len(WHOLE) - 2, len(WHOLE) - 1]
    for place in seams:
        for code in range(256):
            if chr(code) != WHOLE[place]:
                changed = WHOLE[:place] + chr(code) + WHOLE[place + 1 :]
                assert isinstance(grant_of(changed, TRUSTING, NOW), AccessProblem), (place, chr(code))


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_claims_of_any_bytes_are_a_grant_or_a_problem(claims: bytes) -> None:
    assert isinstance(grant_of(token_of(claims), TRUSTING, NOW), AccessProblem)


@given(
    st.text(max_size=200)
    | st.builds("{}.{}.{}".format, *[st.text(max_size=50) | st.binary(max_size=50).map(segment)] * 3)
)
def test_any_text_is_a_problem_and_not_an_error(token: str) -> None:
    assert isinstance(grant_of(token, TRUSTING, NOW), AccessProblem)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
CLAIMS = ["sub", "aud", "exp", "nbf", "jti", "shardbus"]


@given(st.sampled_from(CLAIMS), JSON)
def test_a_claim_of_any_shape_is_a_grant_or_a_problem(name: str, value: Any) -> None:
    claims = {"sub": "alice", "aud": "shardbus", "exp": NOW.timestamp() + 60, "shardbus": {}, name: value}
    assert isinstance(grant_of(token_of(claims), TRUSTING, NOW), AccessProblem | Grant)


@given(
    st.lists(NAMES, max_size=4), st.lists(NAMES, min_size=1, max_size=4), st.dictionaries(NAMES, st.just(1), max_size=2)
)
def test_what_is_planned_is_asked_for_and_granted(include: list[str], devices: list[str], pin: dict[str, int]) -> None:
    grant = Grant(subject="alice", devices=tuple(devices))
    everywhere = [f"{node}/{device}" for node in "abc" for device in "xy"]
    wanted = [key for key in everywhere if not include or key in include or key[0] in include]
    answer = narrowed(PlacementRequest(model_id="m", include=tuple(include), pin=pin), grant, FLEET)
    if isinstance(answer, AccessProblem):
        named = [*include, *pin]
        assert any(
            not any(permits(grant, key) for key in everywhere if name in (key, key[0])) for name in named
        ) or any(not permits(grant, name) for name in pin)
        return
    assert answer.include
    assert narrowed(answer, grant, FLEET) == answer
    planned = [key for key in everywhere if key in answer.include or key[0] in answer.include]
    assert planned == [key for key in wanted if permits(grant, key)]
    assert all(permits(grant, name) for name in pin)


def test_the_good_token_is_good() -> None:
    assert grant_of(WHOLE, TRUSTING, NOW) == ALICE
