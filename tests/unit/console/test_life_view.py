"""A life as a person reads it."""

from datetime import timedelta

from shardbus_console.life_view import moment_lines, now_lines, total_lines
from shardbus_eventstore.life import Life
from shardbus_schemas import events
from support.answers import placed_event
from support.histories import START
from support.lives import FIRST, NAME, NOWHERE, Telling, eventful, refused


def lived(told: Telling) -> Life:
    life = told.life()
    assert life is not None
    return life


def test_an_eventful_life_reads_well() -> None:
    told = "\n".join(moment_lines(lived(eventful()).moments))
    pad = " " * 28
    for said in (
        (
            "2026-11-20 UTC\n10:01:00.142  placed        on rig/cuda:0 [0-39], rig/cuda:1 [40-79]: "
            "11.2 tokens/s predicted, 40.0 GiB  (FLEET 5)\n"
            f"{pad}asked for by console/anna: place llama-3.3-70b-4bit with priority 5 (COMMANDS 1), 142 ms before\n"
        ),
        "ready         rig/cuda:0 [0-39], after 18.2 s of loading, 20.0 GiB in use of 20.0 GiB promised  (FLEET 9)",
        f"{pad}all shards are ready, 23.8 s after it was placed so",
        "device lost   rig/cuda:1 lost: XID 79: the GPU has fallen off the bus  (FLEET 11)\n10:15:02.310  moved",
        (
            f"{pad}before, it was on rig/cuda:0 [0-39], rig/cuda:1 [40-79] for 14 min 2 s\n"
            f"{pad}to be moved: 20.0 GiB, 19.1 s down predicted "
            "(20.0 GiB from where models are kept > desk/mlx:0, 19.1 s)\n"
            f"{pad}why: rig/cuda:1 was lost with 40 of its 80 layers\n"
            f"{pad}led to by FLEET 11, 310 ms before"
        ),
        "failed        desk/mlx:0 [40-79], after 27 s of loading: out of memory in the second buffer",
        (
            f"{pad}needs 40.0 GiB, usable 20.0 GiB, missing 20.0 GiB\n"
            f"{pad}what would help: free 20.0 GiB on attic/cuda:0\n"
        ),
        f"{pad}after 9 min 29 s without a place",
        f"{pad}asked for by console/ben: place deepseek-r1-distill with priority 10",
        "\n2026-11-21 UTC\n11:00:00.000  device ",
        "cordon        rig drained by console/anna: new power supply",
        "deleted       after 2 d 1 h: enough for today",
    ):
        assert said in told
    assert list(now_lines(lived(eventful()))) == ["deleted, since 2026-11-22 12:00:00 UTC"]
    assert list(total_lines(lived(eventful()))) == [
        "2 d 1 h: placed 1 d 1 h (51.9%); without a place 1 d (48.1%), twice, the longest 23 h 53 min",
        "all shards ready 13 min 38 s (0.5%)",
        "moved 6 times, 1 shard failure",
    ]


def test_how_it_is_now_is_said() -> None:
    told = Telling()
    told.say(placed_event(NAME).model_copy(update={"plan": FIRST}), 0)
    layout, since = "rig/cuda:0 [0-39], rig/cuda:1 [40-79]", "since 2026-11-20 10:00:00 UTC"
    assert list(now_lines(lived(told))) == [f"placed on {layout}, {since}", "no runtime says anything of its shards"]
    told.shard("rig/cuda:0", "ready", 1, 0, 40)
    told.shard("rig/cuda:1", "loading", 1, 40, 80)
    assert list(now_lines(lived(told)))[1] == "1 of 2 shards ready; rig/cuda:1 loading"
    waits = events.InstancePending(
        instance_id=NAME, cause="drained", reason="rig is drained", result=refused("full"), position=NOWHERE
    )
    told.say(waits, 60)
    assert list(now_lines(lived(told))) == [
        "without a place since 2026-11-20 10:01:00 UTC: rig is drained",
        "insufficient_memory: full",
    ]
    later = told.life(now=START + timedelta(seconds=240))
    assert later is not None
    assert list(total_lines(later)) == [
        "4 min: placed 1 min (25.0%); without a place 3 min (75.0%), once",
        "all shards ready 0 (0.0%)",
        "never moved",
    ]


def test_what_led_to_something_and_is_not_there_any_more_is_named() -> None:
    told = Telling()
    told.say(placed_event(NAME), 0, because="cli-old")
    assert list(moment_lines(lived(told).moments))[-1].strip() == "led to by cli-old, of which FLEET says no more"
    told = Telling()
    told.say(placed_event(NAME, asked=told.who(0, "unknown")), 0.5, because="cli-bare")
    assert "asked for by a sender without a name: place tiny" in list(moment_lines(lived(told).moments))[-1]


def test_a_reason_of_several_lines_or_of_none_does_not_break_the_lines() -> None:
    told = Telling()
    told.say(placed_event(NAME).model_copy(update={"plan": FIRST}), 0)
    waits = events.InstancePending(
        instance_id=NAME, cause="drained", reason="", result=refused("so\nit is"), position=NOWHERE
    )
    told.say(waits, 1)
    told.say(waits.model_copy(update={"reason": "first\n\nsecond", "result": refused("")}), 2)
    lines = list(moment_lines(lived(told).moments))
    assert not any("\n" in line for line in lines)
    assert any("no place      before, it was on" in line for line in lines)
    assert "insufficient_memory: so it is" in "".join(lines)
    assert any("still none    first second" in line for line in lines)
