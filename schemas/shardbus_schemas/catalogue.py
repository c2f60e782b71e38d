"""The reference page of all messages: ``python -m shardbus_schemas.catalogue FILE`` writes it."""

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic.json_schema import models_json_schema

from shardbus_schemas.channels import CHANNELS, Channel
from shardbus_schemas.fleet import Fleet
from shardbus_schemas.model import FrozenModel
from shardbus_schemas.registry import MESSAGE_TYPES, type_of, version_of
from shardbus_schemas.upcasters import UPCASTERS

Json = dict[str, Any]

_HEAD = """\
# Messages

Written by `make docs` from the code; do not edit. The same as files: [`schemas/`](../../schemas/README.md).

A payload is JSON (UTF-8). The envelope travels in NATS headers with CloudEvents' names: `ce-id`, `ce-type`,
`ce-typeversion`, `ce-source`, `ce-time`, `ce-correlationid`, `ce-causationid`. A command needs none of them; it may
name in `ce-replyto` where else its answer goes, or be put as a request on `shardbus.v1.ask.<verb>`, whose reply the
answer is ([how to publish a command](../how-to/publish-a-command.md)). A field that is left out has its default; what
is unknown is `null` or left out, never a number that looks like one. Readers ignore fields that they do not know. In
subjects, a name is one token: space, `.`, `*`, `>` and `%` are percent-encoded.
"""


def page(examples: Path) -> str:
    """Return the page as markdown, with the golden messages in ``examples`` as examples."""
    models = [*MESSAGE_TYPES.values(), Fleet]
    references, whole = models_json_schema([(model, "validation") for model in models], ref_template="{model}")
    definitions: Mapping[str, Json] = whole["$defs"]
    messages = {cast("str", references[model, "validation"]["$ref"]) for model in MESSAGE_TYPES.values()}
    lines = [_HEAD]
    for channel in CHANNELS:
        lines += _channel(channel, definitions, examples)
    lines.append("## Parts\n\nWhat messages and files are made of.\n")
    for name, definition in sorted(definitions.items()):
        if name not in messages:
            lines += [f"### {name}\n", _prose(definition), *_fields(definition)]
    return "\n".join(lines).rstrip() + "\n"


def _channel(channel: Channel, definitions: Mapping[str, Json], examples: Path) -> Iterator[str]:
    yield f"## `{channel.address}`\n\n{channel.summary} Stream `{channel.stream}`.\n"
    for model in channel.messages:
        name, version = type_of(model), version_of(model)
        yield f"### {name}\n\nVersion {version}{_older(name, version)}. {_docstring(model)}\n"
        yield from _fields(definitions[model.__name__])
        golden = json.loads((examples / f"{name}.v{version}.json").read_text(encoding="utf-8"))
        yield f"<details><summary>Example</summary>\n\nOn `{golden['subject']}`:\n"
        yield f"```json\n{json.dumps(golden['payload'], indent=2, ensure_ascii=False)}\n```\n\n</details>\n"


def _older(name: str, version: int) -> str:
    old = [str(number) for number in range(1, version) if (name, number) in UPCASTERS]
    return f" (version {', '.join(old)} is still read)" if old else ""


def _docstring(model: type[FrozenModel]) -> str:
    return (inspect.getdoc(model) or "").replace("``", "`")


def _prose(schema: Json) -> str:
    return cast("str", schema.get("description", "")).replace("``", "`") + "\n"


def _fields(schema: Json) -> Iterator[str]:
    properties = cast("Mapping[str, Json]", schema.get("properties", {}))
    if not properties:
        return
    yield "| field | type | default | |\n| --- | --- | --- | --- |"
    for name, field in properties.items():
        required = name in schema.get("required", [])
        default = "required" if required else f"`{json.dumps(field.get('default'))}`"
        about = " ".join(_prose(field).split()).replace("|", r"\|")
        yield f"| `{name}` | {_type(field)} | {default} | {about} |"
    yield ""


def _type(schema: Json) -> str:
    """Return a field's type for people; links lead to the part's own table."""
    match schema:
        case {"$ref": name}:
            text = f"[{name}](#{name.lower()})"
        case {"anyOf": choices} | {"oneOf": choices}:
            text = " or ".join(dict.fromkeys(_type(choice) for choice in choices if choice != {"type": "null"}))
        case {"const": value}:
            text = f"`{json.dumps(value)}`"
        case {"enum": values}:
            text = ", ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": items}:
            text = f"list of {_type(items)}"
        case {"type": "object", "additionalProperties": values} if isinstance(values, dict):
            text = f"map to {_type(cast('Json', values))}"
        case {"type": "string", "format": "date-time"}:
            text = "time"
        case _:
            text = f"{schema.get('type', 'anything')}{_bounds(schema)}"
    return text


def _bounds(schema: Json) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    # 2**62 merely keeps sums of bytes within 64 bits.
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema and schema[key] != 2**62]
    return f" {', '.join(bounds)}" if bounds else ""


def main(arguments: list[str] | None = None) -> int:
    """Return 0, or 1 when ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m shardbus_schemas.catalogue", description=__doc__)
    parser.add_argument("file", type=Path, help="the page: docs/reference/events.md")
    parser.add_argument("--examples", type=Path, default=Path("tests/golden"), help="the folder of golden messages")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    options = parser.parse_args(arguments)
    text = page(options.examples)
    if not options.check:
        options.file.parent.mkdir(parents=True, exist_ok=True)
        options.file.write_text(text, encoding="utf-8")
        return 0
    if options.file.is_file() and options.file.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{options.file} is out of date; run: make docs\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
