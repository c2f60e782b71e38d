"""What the product's own policy keeps free, per backend, and how a request overrides it."""

import math

import pytest
from shardbus_placer.capacity import activation_bytes, free_bytes, headroom_bytes, overhead_bytes
from shardbus_placer.policy import MIB, Policy
from support.planning import ask, asked, device, fleet, layers, model, refused

GIB = 1 << 30


@pytest.mark.parametrize(
    ("backend", "fraction", "overhead"),
    [
        ("cuda", 0.05, 512 * MIB),
        ("rocm", 0.05, 512 * MIB),
        ("metal", 0.25, 256 * MIB),
        ("cpu", 0.20, 256 * MIB),
        ("vulkan", 0.05, 512 * MIB),
        (None, 0.05, 512 * MIB),
    ],
)
def test_each_backend_has_its_own_headroom_and_overhead(backend: str | None, fraction: float, overhead: int) -> None:
    one, request = device("0", 24 * GIB, backend=backend), asked(model())
    assert headroom_bytes(one, request, Policy()) == math.ceil(fraction * 24 * GIB)
    assert overhead_bytes(one, request, Policy()) == overhead
    bare = asked(model(), headroom_fraction=0, headroom_bytes=0, runtime_overhead_bytes=0)
    assert free_bytes(one, bare, Policy()) == 24 * GIB
    assert overhead_bytes(one, bare, Policy()) == 0


def test_the_larger_of_fraction_and_bytes_stays_free() -> None:
    one = device("0", 1000)
    assert headroom_bytes(one, asked(model(), headroom_fraction=0.1, headroom_bytes=50), Policy()) == 100
    assert headroom_bytes(one, asked(model(), headroom_fraction=0.1, headroom_bytes=150), Policy()) == 150


def test_a_cuda_context_alone_takes_the_place_of_layers() -> None:
    where = fleet(a=device("0", 2 * GIB, 300e9, backend="cuda"), b=device("0", 2 * GIB, 300e9, backend="cuda"))
    what = model(12, 256 * MIB)
    room = 2 * GIB - math.ceil(0.05 * 2 * GIB) - 512 * MIB
    assert room // (256 * MIB) == 5
    assert refused(ask(where, what, Policy())).refusal.code == "insufficient_memory"
    assert sorted(layers(ask(where, model(10, 256 * MIB), Policy())).values()) == [5, 5]
    assert sum(layers(ask(where, what, Policy(), runtime_overhead_bytes=0)).values()) == 12


def test_activations_are_sized_for_one_prefill_step_of_all_sequences() -> None:
    what = model(activation_bytes_per_token=100)
    assert activation_bytes(what, asked(what, context_tokens=0), Policy()) == 0
    assert activation_bytes(what, asked(what, context_tokens=10, concurrency=3), Policy()) == 2 * 30 * 100
    assert activation_bytes(what, asked(what, context_tokens=4096), Policy()) == 2 * 512 * 100
