from shardbus_placer.planner import plan
from shardbus_placer.policy import Policy
from shardbus_placer.verify import verify
from shardbus_schemas.fleet import Fleet, FleetDevice, FleetNode
from shardbus_schemas.model_profile import ModelProfile
from shardbus_schemas.placement import Placed, PlacementRequest, Refused

GIB = 1 << 30
MODEL = ModelProfile(model_id="tiny", layers=10, layer_bytes=GIB)
REQUEST = PlacementRequest(model_id="tiny", context_tokens=0, headroom_bytes=0, headroom_fraction=0)


def mac(*, gpu_status: str = "ok") -> Fleet:
    memory = {"memory_total_bytes": 8 * GIB, "memory_used_bytes": 0, "unified_memory": True}
    devices = (
        FleetDevice.model_validate({"device_id": "metal:0", "backend": "metal", "status": gpu_status, **memory}),
        FleetDevice.model_validate({"device_id": "cpu", "backend": "cpu", **memory}),
    )
    return Fleet(nodes=(FleetNode(node_id="mac", devices=devices),))


def test_the_memory_that_a_gpu_shares_with_its_host_is_promised_once() -> None:
    refused = plan(mac(), MODEL, REQUEST, Policy())
    assert isinstance(refused, Refused)
    assert refused.refusal.reasons == {"shared_memory": 1}
    why = {verdict.device: verdict.why for verdict in refused.devices}
    assert "mac/metal:0" in why["mac/cpu"]


def test_a_plan_that_used_both_would_not_pass_the_verifier() -> None:
    small = MODEL.model_copy(update={"layers": 4})
    placed = plan(mac(gpu_status="lost"), small, REQUEST, Policy())
    assert isinstance(placed, Placed)
    assert placed.stages[0].devices == ("mac/cpu",)
    assert verify(mac(gpu_status="lost"), small, REQUEST, Policy(), placed) == ()
    assert verify(mac(), small, REQUEST, Policy(), placed) == ("mac/cpu has the memory of another device of its node",)
