"""What runtimes say is held against the plan: of other layers it is of an earlier one."""

import pytest
from shardbus_eventstore.shards import counts, planned_shards
from shardbus_eventstore.state import InstanceRecord
from shardbus_schemas.ids import InstanceId
from shardbus_schemas.model import FrozenModel
from support.histories import History
from support.wanted import moved, placed, said, waits


def record_after(*added: FrozenModel) -> InstanceRecord:
    history = History()
    history.add(*added)
    return history.state.instances[InstanceId("one")]


def test_a_shard_is_wanted_until_its_runtime_speaks() -> None:
    record = record_after(placed("one", "attic/g0", "attic/g1"), said("one", "attic/g1", "loading"))
    assert [(shard.device, shard.state) for shard in planned_shards(record)] == [
        ("attic/g0", "wanted"),
        ("attic/g1", "loading"),
    ]
    assert counts(record) == {"wanted": 1, "loading": 1}


@pytest.mark.parametrize(
    ("layers", "state"),
    [((0, 2), "ready"), ((None, None), "ready"), ((0, None), "ready"), ((2, 4), "wanted"), ((0, 4), "wanted")],
)
def test_words_of_other_layers_are_of_another_plan(layers: tuple[int | None, int | None], state: str) -> None:
    report = said("one", "attic/g0", "ready", start_layer=layers[0], end_layer=layers[1])
    [shard, _] = planned_shards(record_after(placed("one", "attic/g0", "attic/g1"), report))
    assert shard.state == state


def test_what_has_no_place_has_no_shards_and_a_device_left_is_not_told_of() -> None:
    ready = said("one", "attic/g0", "ready")
    assert [*planned_shards(record_after(placed("one", "attic/g0"), ready, waits("one")))] == []
    assert counts(record_after(placed("one", "attic/g0"), ready, moved("one", "desk/g0"))) == {"wanted": 1}
