"""Why a runtime cannot run a plan."""

from typing import Literal

RefusalCode = Literal[
    "address_invalid",
    "address_unknown",
    "backend_mixed",
    "backend_unknown",
    "backend_unsupported",
    "device_unaddressed",
    "heads_uneven",
    "model_unknown",
    "node_split",
    "node_unknown",
    "rank_order",
    "several_pipelines",
    "tensor_across_nodes",
    "tensor_and_pipeline",
    "tensor_sizes_differ",
    "tensor_unsupported",
]


class CannotExpressError(Exception):
    """A runtime has no words for a plan, or shardbus does not know enough to say them."""

    def __init__(self, code: RefusalCode, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.code: RefusalCode = code
        self.what = what
        self.remedy = remedy
        """What to do."""
