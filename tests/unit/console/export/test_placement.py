"""Addresses, and what every runtime refuses."""

from dataclasses import replace

import pytest
from shardbus_console.export.placement import Address, Options
from shardbus_console.export.refusal import CannotExpressError
from shardbus_console.export.runtimes import EXPORTERS, Runtime
from shardbus_console.export.shell import command, comment, demanded, file_name
from support.exporting import placement_of, small_model


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("attic", Address("attic")),
        ("attic.lan:80", Address("attic.lan", 80)),
        ("10.0.0.1", Address("10.0.0.1")),
        ("10.0.0.1:65535", Address("10.0.0.1", 65535)),
        ("fe80::1", Address("fe80::1")),
        ("[fe80::1]", Address("fe80::1")),
        ("[fe80::1]:80", Address("fe80::1", 80)),
    ],
)
def test_an_address_is_a_name_or_an_ip_address_and_maybe_a_port(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    "text", ["", ":80", "attic:", "attic:0", "attic:65536", "-oProxyCommand=x", "a b", "a;b", "$(x)", "[attic", "a\nb"]
)
def test_whatever_else_is_no_address(text: str) -> None:
    with pytest.raises(CannotExpressError) as refused:
        Address.parse(text)
    assert refused.value.code == "address_invalid"


@pytest.mark.parametrize("runtime", Runtime)
def test_several_pipelines_are_refused_by_all(runtime: Runtime) -> None:
    placement = placement_of([(["a/gpu"], 5), (["b/gpu"], 5)], model=small_model())
    first, second = placement.plan.stages
    twice = second.model_copy(update={"start_layer": 0, "end_layer": 5})
    plan = placement.plan.model_copy(update={"stages": (first, twice)})
    with pytest.raises(CannotExpressError) as refused:
        EXPORTERS[runtime](replace(placement, plan=plan), Options())
    assert refused.value.code == "several_pipelines"


def test_words_of_the_shell() -> None:
    assert command(["run", ("--a", "it's"), "$MODEL", "$(x)"]) == "run --a 'it'\"'\"'s' \"$MODEL\" '$(x)'"
    assert demanded("X", 'a "b" $(c) `d`') == ': "${X:?set it to a -b- -c- -d-}"'
    assert file_name("../a b/ç") == "a-b"
    assert file_name("…") == "node"
    assert comment(["", "a"]) == ["#", "# a"]
