import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from shardbus_schemas.channels import CHANNELS
from shardbus_schemas.export import differences, files, main, write
from shardbus_schemas.registry import MESSAGE_TYPES
from support.golden import GOLDEN

SCHEMAS = Path(__file__).parents[3] / "schemas"
DOCUMENT: dict[str, Any] = json.loads(files()["asyncapi.json"])


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(reference: str) -> Any:
    assert reference.startswith("#/"), reference
    node: Any = DOCUMENT
    for step in reference[2:].split("/"):
        node = node[step.replace("~1", "/").replace("~0", "~")]
    return node


def test_the_exported_files_are_what_the_code_says() -> None:
    assert differences(SCHEMAS) == []


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path)
    assert differences(tmp_path) == []
    assert dict(files()) == dict(files())


def test_a_difference_is_found_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    (tmp_path / "jsonschema" / "Place.v1.json").write_text("{}")
    (tmp_path / "jsonschema" / "Drain.v1.json").unlink()
    (tmp_path / "jsonschema" / "Plaice.v1.json").write_text("{}")
    assert main(["--check", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "Place.v1.json differs" in told
    assert "Drain.v1.json is missing" in told
    assert "Plaice.v1.json belongs to no message" in told
    assert "make schemas" in told


def test_the_file_of_an_older_version_stays(tmp_path: Path) -> None:
    shutil.copytree(SCHEMAS / "jsonschema", tmp_path / "jsonschema")
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "jsonschema" / "DeviceGPUStateUpdated.v1.json").is_file()
    assert main(["--check", str(tmp_path)]) == 0


def test_every_message_type_is_on_exactly_one_channel() -> None:
    carried = [message for channel in CHANNELS for message in channel.messages]
    assert sorted(carried, key=lambda m: m.__name__) == sorted(MESSAGE_TYPES.values(), key=lambda m: m.__name__)


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        assert resolve(reference) is not None


def test_the_asyncapi_document_has_the_shape_of_version_3() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])
    for channel in DOCUMENT["channels"].values():
        named = {token[1:-1] for token in channel["address"].split(".") if token.startswith("{")}
        assert named == set(channel.get("parameters", {}))
        assert channel["messages"]
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = resolve(operation["channel"]["$ref"])
        own = {operation["channel"]["$ref"] + "/messages/" + name for name in channel["messages"]}
        # The specification: an operation's messages point at its channel's, not at the components.
        assert {message["$ref"] for message in operation["messages"]} == own


@pytest.mark.parametrize("name", MESSAGE_TYPES)
def test_the_asyncapi_payload_fits_the_golden_message(name: str) -> None:
    golden = max((g for g in GOLDEN.values() if g.type == name), key=lambda g: g.version)
    message = DOCUMENT["components"]["messages"][name]
    for part, instance in (("payload", golden.payload), ("headers", golden.headers)):
        # AsyncAPI's schemas are a superset of draft 7; references point into the document.
        schema = {**message[part], "components": DOCUMENT["components"]}
        Draft7Validator(schema).validate(instance)
        assert not Draft7Validator(schema).is_valid([])
