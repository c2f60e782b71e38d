"""A model's profile from its own files, offline: a Hugging Face folder or config.json, a GGUF file, a model file."""

import re
from pathlib import Path
from typing import Any, Final, cast

from shardbus_infra.files.document import FileError, parse, read_text, validate
from shardbus_schemas.model_profile import ModelProfile

from shardbus_placer.models.binary import ModelFileError
from shardbus_placer.models.config import ConfigError
from shardbus_placer.models.folder_profile import profile_of_config, profile_of_folder
from shardbus_placer.models.gguf import MAGIC, read_header
from shardbus_placer.models.gguf_profile import profile_of

_INDEX: Final = "model.safetensors.index.json"
_PART: Final = re.compile(r"-\d{5}-of-\d{5}$")
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9._+-]+")


def import_model(path: str | Path, *, model_id: str | None = None) -> ModelProfile:
    """Return the profile of the model at ``path``: a folder, a ``config.json``, a GGUF file, or a model file.

    ``model_id`` names it; otherwise the folder or file does. Raises FileError: which file, which field, what to do.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _folder(path, model_id)
        if path.suffix.lower() == ".gguf" or _begins_with_magic(path):
            return profile_of(read_header(path), model_id=model_id or _name(_PART.sub("", path.stem)))
        return _text(path, model_id)
    except ModelFileError as error:
        raise FileError(str(error)) from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error


def _begins_with_magic(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def _folder(folder: Path, model_id: str | None) -> ModelProfile:
    """Read a folder: its config with its safetensors files, or its one GGUF model."""
    config = folder / "config.json"
    name = model_id or _name(folder.resolve().name)
    if config.is_file():
        files = _safetensors(folder)
        fields = _config(config)
        try:
            if files:
                source = f"config.json and {len(files)} safetensors files of {folder.resolve().name}"
                return profile_of_folder(fields, files, model_id=name, source=source)
            return profile_of_config(fields, model_id=name, source=f"config.json of {folder.resolve().name}")
        except ConfigError as error:
            raise FileError(f"{config}: {error}") from error
    found = sorted(folder.glob("*.gguf"))
    models = {_PART.sub("", file.stem): file for file in reversed(found)}
    if len(models) == 1:
        return import_model(next(iter(models.values())), model_id=model_id)
    if models:
        raise FileError(f"{folder}: holds {len(models)} GGUF models; name one of {', '.join(sorted(models))}")
    raise FileError(f"{folder}: no config.json and no .gguf file in it")


def _safetensors(folder: Path) -> list[Path]:
    """Return the weights' files: those of the index, if there is one; none if none is there at all."""
    index = folder / _INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    document = parse(read_text(index), name=str(index))
    names = (document.fields or {}).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise FileError(f"{index}: weight_map: required, but not given")
    files = [folder / str(name) for name in sorted({str(name) for name in cast("dict[str, Any]", names).values()})]
    if any(file.parent != folder for file in files):
        raise FileError(f"{index}: weight_map: names a file outside its folder")
    missing = [file.name for file in files if not file.is_file()]
    if len(missing) == len(files):
        return []  # only the small files were fetched: sizes follow from the config
    if missing:
        raise FileError(f"{folder / missing[0]}: missing ({len(missing)} of {len(files)} files of the index)")
    return files


def _config(path: Path) -> dict[str, Any]:
    document = parse(read_text(path), name=str(path))
    if document.fields is None:
        raise FileError(document.problem((), "not an object with fields; is this a config.json?"))
    return document.fields


def _text(path: Path, model_id: str | None) -> ModelProfile:
    """Read a config.json, or a model file of our own."""
    if path.suffix.lower() not in {".json", ".yaml", ".yml"} and path.is_file():
        raise FileError(f"{path}: neither a GGUF file nor a .json or .yaml file")
    fields = _config(path)
    if "layer_bytes" in fields or "layers" in fields:
        given = validate(parse(read_text(path), name=str(path)), ModelProfile)
        return given if model_id is None else given.model_copy(update={"model_id": model_id})
    folder = path.resolve().parent.name if path.name == "config.json" else path.stem
    try:
        return profile_of_config(fields, model_id=model_id or _name(folder), source=f"{path.name} of {folder}")
    except ConfigError as error:
        raise FileError(f"{path}: {error}") from error


def _name(text: str) -> str:
    """Return ``text`` as a model id: characters that an id or a subject would have to escape become hyphens."""
    return _NOT_IN_A_NAME.sub("-", text).strip("-.")[:200] or "model"
