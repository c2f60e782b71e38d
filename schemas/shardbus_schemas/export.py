"""The schemas as files: ``python -m shardbus_schemas.export FOLDER`` writes them, ``--check FOLDER`` compares.

A file is named after its message's type and version, ``InstancePlaced.v1.json``. The file of a version that is no
longer written stays: somebody's stored messages still have its shape.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shardbus_schemas.asyncapi import document
from shardbus_schemas.fleet import FleetFile
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.node_report import NodeReport
from shardbus_schemas.placement import PlacementRequest
from shardbus_schemas.registry import MESSAGE_TYPES, version_of
from shardbus_schemas.scenario import Scenario

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_FILES_OF_PEOPLE = {
    "fleet-file": FleetFile,
    "model-file": ModelProfile,
    "node-report": NodeReport,
    "placement-request": PlacementRequest,
    "scenario-file": Scenario,
}


def files() -> Mapping[str, str]:
    """Return every exported file: its path below the folder, and its text."""
    schemas = {f"{name}.v{version_of(model)}": _schema(name, model) for name, model in MESSAGE_TYPES.items()}
    schemas |= {name: _schema(name, model) for name, model in _FILES_OF_PEOPLE.items()}
    texts = {f"jsonschema/{name}.json": _text(schema) for name, schema in sorted(schemas.items())}
    return {**texts, "asyncapi.json": _text(document())}


def differences(folder: Path) -> list[str]:
    """Return what is not as the code says, one sentence per file; nothing when all is well."""
    wanted = files()
    found: list[str] = []
    for path, text in wanted.items():
        if not (folder / path).is_file():
            found.append(f"{path} is missing")
        elif (folder / path).read_text(encoding="utf-8") != text:
            found.append(f"{path} differs from the code")
    found += [
        f"{present.relative_to(folder)} belongs to no message"
        for present in sorted((folder / "jsonschema").glob("*"))
        if f"jsonschema/{present.name}" not in wanted and not _is_older_version(present.name)
    ]
    return found


def write(folder: Path) -> None:
    """Write every file; those of older versions stay as they are."""
    for path, text in files().items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _is_older_version(file_name: str) -> bool:
    name, _, version = file_name.removesuffix(".json").rpartition(".v")
    return name in MESSAGE_TYPES and version.isdecimal() and 1 <= int(version) < version_of(MESSAGE_TYPES[name])


def _schema(title: str, model: type[BaseModel]) -> dict[str, Any]:
    return {"$schema": _DIALECT, **model.model_json_schema(mode="validation"), "title": title}


def _text(data: object) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Return 0, or 1 when ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m shardbus_schemas.export", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the files are: schemas/")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
    options = parser.parse_args(arguments)
    if not options.check:
        write(options.folder)
        return 0
    found = differences(options.folder)
    if found:
        sys.stderr.write("\n".join([*found, "run: make schemas", ""]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
