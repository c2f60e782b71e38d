"""The documents of other commands that hold a plan, and what they say beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
from shardbus_console.exits import CommandError
from shardbus_console.exportable import plan_in
from support.exporting import plan_of, small_model

PLAN = plan_of([(["a/0"], 3), (["b/0"], 7)]).model_dump(mode="json", by_alias=True)
REQUEST = {"model_id": "small", "context_tokens": 512, "concurrency": 2}
MODEL = small_model(model_id="small").model_dump(mode="json", by_alias=True)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (PLAN, (None, None, None)),
        ({**PLAN, "position": {"telemetry_sequence": 1, "fleet_sequence": 2}}, (None, None, None)),
        ({"instance_id": "small-1", "request": REQUEST, "plan": PLAN, "shards": []}, ("small-1", None, 512)),
        (
            {"instance_id": "small-1", "command_id": "c", "model": MODEL, "request": REQUEST, "plan": PLAN},
            ("small-1", "small", 512),
        ),
        ({"instance_id": "small-1", "request": None, "result": PLAN}, ("small-1", None, None)),
        ({"request": {"model": MODEL}, "plan": PLAN, "instance_id": None}, (None, "small", 4096)),
    ],
    ids=["plan", "live plan", "instances", "place", "explain", "a model of one's own"],
)
def test_a_plan_is_read_wherever_a_command_printed_it(document: Any, says: tuple[object, ...], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(document))
    read = plan_in(file)
    assert [stage.layers for stage in read.plan.stages] == [3, 7]
    told = (
        read.instance_id,
        read.model and read.model.model_id,
        read.request and read.request.context_tokens,
    )
    assert told == says


@pytest.mark.parametrize("text", ["[]", "{}", '{"plan": {"status": "placed"}}', '{"status": "moved"}', "plan"])
def test_anything_else_is_said_to_be_no_plan(text: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(Exception, match=r"plan\.json") as said:
        plan_in(file)
    assert isinstance(said.value, CommandError) or "not JSON" in str(said.value)
