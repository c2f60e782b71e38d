"""What is exported of one placement for each runtime, as files to look at.

``PYTHONPATH=tests python tests/support/golden_exports.py`` writes them anew; read what changed before it is committed.
"""

from collections.abc import Iterator, Mapping

from shardbus_console.export.placement import Options, Placement
from shardbus_console.export.runtimes import EXPORTERS, Runtime
from shardbus_schemas.ids import NodeId
from support.exporting import GOLDEN, Cut, placement_of, small_model

_ATTIC_AND_DESK: Cut = [(["desk/gpu"], 5), (["attic/cuda-0"], 3), (["attic/cuda-1"], 2)]
_RACKS: Cut = [(["rack-1/0", "rack-1/1"], 6), (["rack-2/0", "rack-2/1"], 4)]
_MACS: Cut = [(["desk/gpu"], 5), (["studio/gpu"], 3), (["mini/gpu"], 2)]
_WHERE = {
    "desk": "192.168.1.20",
    "attic": "192.168.1.21",
    "studio": "192.168.1.22",
    "mini": "192.168.1.23",
    "rack-1": "10.0.0.1",
    "rack-2": "10.0.0.2",
}


def exports() -> Iterator[tuple[Runtime, Mapping[str, str]]]:
    """Yield the files of each runtime."""
    options = Options(exo_nodes={NodeId(node): f"12D3KooW-{node}" for node in ("desk", "studio", "mini")})
    for runtime, cut in {
        Runtime.LLAMA_CPP: _ATTIC_AND_DESK,
        Runtime.VLLM: _RACKS,
        Runtime.MLX: _ATTIC_AND_DESK,
        Runtime.EXO: _MACS,
    }.items():
        yield runtime, EXPORTERS[runtime](_placement(cut), options).files


def _placement(cut: Cut) -> Placement:
    devices = [device for stage, _ in cut for device in stage]
    backends = {device: "metal" if device.endswith("/gpu") else "cuda" for device in devices}
    return placement_of(
        cut, backends=backends, addresses=_WHERE, model=small_model(), context_tokens=8192, concurrency=2
    )


def main() -> None:
    """Write the files."""
    for runtime, files in exports():
        folder = GOLDEN / runtime
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, text in files.items():
            (folder / name).write_text(text)


if __name__ == "__main__":
    main()
