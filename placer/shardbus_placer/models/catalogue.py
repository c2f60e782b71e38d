"""Well-known models by id, each in its published form and in every quantisation.

``llama-3.1-8b`` is the model as published; ``llama-3.1-8b-4bit`` the same stored by the scheme ``4bit`` (see
``quantisation.SCHEMES`` for all of them). The data file holds facts only; sizes are computed when they are asked for.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.problems import suggest
from typing_extensions import override

from shardbus_placer.models.architecture import Architecture
from shardbus_placer.models.config import architecture_of
from shardbus_placer.models.profile import profile
from shardbus_placer.models.quantisation import NATIVE, SCHEMES, Scheme

_EXPERTS_ONLY = "mxfp4"
"""Stores nothing but experts differently, so it is offered for those published in it."""


class Catalogue(Mapping[str, ModelProfile]):
    """All models and their variants; a profile is computed when it is first asked for."""

    def __init__(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        self._entries = entries
        self._variants = {
            variant: (model_id, scheme)
            for model_id, entry in entries.items()
            for variant, scheme in _variants(model_id, entry)
        }
        self._profiles: dict[str, ModelProfile] = {}

    @override
    def __getitem__(self, model_id: str) -> ModelProfile:
        if model_id not in self._profiles:
            base, scheme = self._variants[model_id]
            entry = self._entries[base]
            self._profiles[model_id] = profile(
                architecture_of(entry["config"]),
                scheme,
                model_id=model_id,
                dtype=entry["dtype"],
                source=f"Hugging Face config.json of {entry['repository']}",
            )
        return self._profiles[model_id]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._variants)

    @override
    def __len__(self) -> int:
        return len(self._variants)

    @override
    def __contains__(self, model_id: object) -> bool:
        return model_id in self._variants

    @property
    def models(self) -> tuple[str, ...]:
        """The ids of the models as published, without their variants."""
        return tuple(self._entries)

    def variants(self, model_id: str) -> tuple[str, ...]:
        """Return the ids of a model and its variants; raise KeyError."""
        base = self._variants[model_id][0]
        return tuple(variant for variant, (of, _) in self._variants.items() if of == base)

    def title(self, model_id: str) -> str:
        """Return a model's name for people, such as ``Llama 3.1 8B``; raise KeyError."""
        return str(self._entries[self._variants[model_id][0]]["name"])

    def facts(self, model_id: str) -> Mapping[str, Any]:
        """Return the data file's entry of a model or variant: config, published counts, source; raise KeyError."""
        return self._entries[self._variants[model_id][0]]

    def architecture(self, model_id: str) -> Architecture:
        """Return the architecture of a model or variant; raise KeyError."""
        return architecture_of(self.facts(model_id)["config"])

    def did_you_mean(self, model_id: str) -> str:
        """Return `` (did you mean 'x'?)``, or nothing when no known id is near."""
        known = {name.lower(): name for name in self}
        plain = model_id.lower().rpartition("/")[2].replace("_", "-").removesuffix("-instruct")
        return f" (did you mean {known[plain]!r}?)" if plain in known else suggest(plain, list(self))


@cache
def catalogue() -> Catalogue:
    """Return the catalogue; the first call reads the data file, later ones return the same object."""
    text = resources.files("shardbus_placer.models").joinpath("data", "catalogue.json").read_text(encoding="utf-8")
    return Catalogue({entry["id"]: entry for entry in json.loads(text)["models"]})


def variants_of(model_id: str, known: Mapping[str, ModelProfile]) -> Iterator[ModelProfile]:
    """Yield the same model as published and in every quantisation that ``known`` has, as their ids tell; not itself.

    Profiles are computed when they are asked for: whoever does not look pays nothing.
    """
    stems = [model_id, *(model_id.removesuffix(f"-{name}") for name in SCHEMES if model_id.endswith(f"-{name}"))]
    stem = min(stems, key=len)
    for name in (stem, *(f"{stem}-{scheme}" for scheme in SCHEMES)):
        if name != model_id and name in known:
            yield known[name]


def _variants(model_id: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, Scheme]]:
    native = entry.get("native")
    yield model_id, SCHEMES[native] if native else NATIVE[entry["dtype"]]
    for name, scheme in SCHEMES.items():
        if name != _EXPERTS_ONLY or native == _EXPERTS_ONLY:
            yield f"{model_id}-{name}", scheme
