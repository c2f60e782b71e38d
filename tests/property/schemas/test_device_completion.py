"""Completing a device by the table, over many devices."""

from hypothesis import given
from hypothesis import strategies as st
from shardbus_schemas.device_table import complete, lookup, rows
from shardbus_schemas.fleet import FleetDevice

NAMES = st.sampled_from([alias for row in rows() for alias in (row.name, *row.aliases)]) | st.text(max_size=30)
DEVICES = st.builds(
    FleetDevice.model_validate,
    st.fixed_dictionaries(
        {"device_id": st.just("gpu"), "name": st.none() | NAMES},
        optional={
            "memory_total_bytes": st.integers(0, 2**40),
            "memory_bandwidth_bytes_per_second": st.floats(1, 1e13),
            "backend": st.sampled_from(["cuda", "metal", "vulkan"]),
            "peak_flops": st.dictionaries(st.sampled_from(["float16", "int8"]), st.floats(1, 1e15)),
        },
    ),
)


@given(DEVICES)
def test_completing_never_changes_a_given_fact(device: FleetDevice) -> None:
    done = complete(device)
    for field in FleetDevice.model_fields:
        value = getattr(device, field)
        if value is not None and field not in {"sources", "peak_flops"}:
            assert getattr(done, field) == value
    assert device.peak_flops.items() <= done.peak_flops.items()


@given(DEVICES)
def test_completing_twice_is_completing_once(device: FleetDevice) -> None:
    done = complete(device)
    assert complete(done) == done


@given(st.text(max_size=60))
def test_any_text_may_be_looked_up(name: str) -> None:
    lookup(name)
