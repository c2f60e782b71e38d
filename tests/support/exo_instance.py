"""What exo demands of an instance, restated: the fields of its own models, their camel case, and that nothing is added.

From exo-explore/exo, src/exo/shared/types/worker/{instances,runners,shards}.py and src/exo/shared/models/model_cards.py
(commits in docs/how-to/run-a-placement.md). A tagged model is ``{"ItsName": {its fields}}``.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


class _Strict(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)


class Memory(_Strict):
    in_bytes: int


class ModelCard(_Strict):
    model_id: str
    storage_size: Memory
    n_layers: Annotated[int, Field(gt=0)]
    hidden_size: Annotated[int, Field(gt=0)]
    supports_tensor: bool
    tasks: list[str]


class Shard(_Strict):
    model_card: ModelCard
    device_rank: int
    world_size: int
    start_layer: Annotated[int, Field(ge=0)]
    end_layer: Annotated[int, Field(ge=0)]
    n_layers: Annotated[int, Field(ge=0)]


class TaggedShard(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    pipeline: Shard | None = Field(default=None, alias="PipelineShardMetadata")
    tensor: Shard | None = Field(default=None, alias="TensorShardMetadata")

    @model_validator(mode="before")
    @classmethod
    def _has_one_tag(cls, value: Any) -> Any:
        assert len(value) == 1
        return value

    @property
    def shard(self) -> Shard:
        found = self.pipeline or self.tensor
        assert found is not None
        return found


class ShardAssignments(_Strict):
    model_id: str
    runner_to_shard: dict[str, TaggedShard]
    node_to_runner: dict[str, str]

    @model_validator(mode="after")
    def _runners_exist(self) -> "ShardAssignments":
        assert set(self.node_to_runner.values()) <= set(self.runner_to_shard)
        return self


class Host(_Strict):
    ip: str
    port: Annotated[int, Field(ge=0, le=65535)]


class MlxRingInstance(_Strict):
    instance_id: str
    shard_assignments: ShardAssignments
    hosts_by_node: dict[str, list[Host]]
    ephemeral_port: int


class _Tagged(BaseModel):
    model_config = ConfigDict(extra="forbid")

    ring: MlxRingInstance = Field(alias="MlxRingInstance")


class CreateInstance(BaseModel):
    """The body of ``POST /instance``."""

    model_config = ConfigDict(extra="forbid")

    instance: _Tagged
