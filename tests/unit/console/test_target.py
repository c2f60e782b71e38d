"""What a person calls a node or device."""

import pytest
from shardbus_console.exits import CommandError
from shardbus_console.target import device_named, target_named
from shardbus_infra.settings import CommonSettings
from support.histories import History
from support.wanted import node


def test_a_node_is_named_without_asking_anybody() -> None:
    assert target_named("attic", CommonSettings(nats_url="nats://127.0.0.1:1")) == ("attic", None)


@pytest.mark.parametrize("text", ["", "/", "attic/", "/cuda:0", "a/b/c"])
def test_what_names_neither_a_node_nor_a_device_is_said(text: str) -> None:
    with pytest.raises(CommandError, match="names neither a node"):
        target_named(text, CommonSettings(nats_url="nats://127.0.0.1:1"))


def test_a_device_is_named_by_its_id_or_by_a_label_that_no_other_has() -> None:
    history = History()
    history.add(*node("attic", "GPU-a=cuda:0", "GPU-b=cuda:1", "GPU-c=cuda:1"), *node("desk", "GPU-d=cuda:0"))
    assert device_named(history.state, "attic/GPU-a") == "GPU-a"
    assert device_named(history.state, "attic/cuda:0") == "GPU-a"
    assert device_named(history.state, "desk/cuda:0") == "GPU-d"
    assert device_named(history.state, "attic/unknown") == "unknown", "the placer says what is there instead"
    with pytest.raises(CommandError, match="2 devices of attic are called cuda:1"):
        device_named(history.state, "attic/cuda:1")
