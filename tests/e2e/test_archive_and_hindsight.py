"""``shardbus archive`` and ``shardbus replay-decisions`` as a person runs them, on a real NATS."""

import asyncio
import json
import signal
from pathlib import Path

import pytest
from shardbus_infra.bus.port import Outgoing
from shardbus_infra.bus.streams import FLEET, TELEMETRY
from sqlalchemy import make_url
from support.command_line import document, running, shardbus, shardbus_here
from support.databases import fresh_database
from support.jetstream import delete_streams
from support.projecting import bus_with_streams, caught_up, projector, read_back
from support.simulated_decisions import Day
from support.waiting import until

pytestmark = pytest.mark.connected


def fill(nats_url: str, day: Day, *, beginning: int = 0) -> None:
    """Let NATS have what was said on the simulated day."""

    async def give() -> None:
        async with bus_with_streams(nats_url) as bus:
            for stream in (TELEMETRY, FLEET):
                messages = day.bus.server.log(stream).messages[beginning:]
                await bus.append_many([Outgoing(s.subject, s.payload, s.headers) for s in messages])

    asyncio.run(give())


@pytest.fixture(scope="module")
def day() -> Day:
    """A day whose models are registered, since no placer's catalogue has them."""
    simulated = Day(3, falls_silent=False, models_registered=True)
    simulated.run(40)
    return simulated


def test_what_was_archived_answers_when_nats_has_nothing_any_more(nats_url: str, tmp_path: Path, day: Day) -> None:
    fill(nats_url, day)
    folder = tmp_path / "archive"
    done = shardbus("archive", folder, SHARDBUS_NATS_URL=nats_url)
    assert done.returncode == 0, done.stderr
    assert "TELEMETRY" in done.stdout
    live = document(shardbus_here("replay-decisions", "--json", SHARDBUS_NATS_URL=nats_url))
    assert live["summary"]["decisions"] == day.decided
    assert live["summary"]["kinds"] == {"identical": day.decided}
    assert live["different"] == []
    delete_streams(nats_url)
    nobody = shardbus_here("replay-decisions", "--archive", folder, "--json")
    assert document(nobody) == live
    told = shardbus_here("replay-decisions", "--archive", folder)
    assert f"{day.decided} decisions taken again with today's planner, the same rules" in told.stdout
    assert told.returncode == 0


def test_an_archive_alone_makes_the_read_model_of_an_empty_database_and_shows_the_past(
    nats_url: str, postgres_url: str, tmp_path: Path, day: Day
) -> None:
    fill(nats_url, day)
    folder = tmp_path / "archive"
    assert shardbus_here("archive", folder, SHARDBUS_NATS_URL=nats_url).returncode == 0

    async def live() -> None:
        async with bus_with_streams(nats_url) as bus, projector(bus, postgres_url):
            await caught_up(bus, postgres_url)

    asyncio.run(live())
    server = make_url(postgres_url).set(database="postgres").render_as_string(hide_password=False)
    with fresh_database(server) as empty:
        made = shardbus_here("replay", "--archive", folder, SHARDBUS_POSTGRES_URL=empty)
        assert made.returncode == 0, made.stderr
        assert "the rebuilt read model is live" in made.stdout
        assert read_back(empty) == read_back(postgres_url)
    asked = ("FLEET:20", "--json")
    past = shardbus_here("state", "--at", *asked, SHARDBUS_NATS_URL=nats_url)
    events = shardbus_here("events", "--until", *asked, SHARDBUS_NATS_URL=nats_url)
    delete_streams(nats_url)
    assert document(shardbus_here("state", "--at", *asked, "--archive", folder)) == json.loads(past.stdout)
    assert shardbus_here("events", "--until", *asked, "--archive", folder).stdout == events.stdout
    assert len(events.stdout.splitlines()) == 20
    changed = shardbus_here("diff", "FLEET:20", "--archive", folder)
    assert changed.returncode == 0, changed.stderr
    assert "differences" in changed.stdout


def test_another_policy_and_another_objective_say_what_would_differ(nats_url: str, tmp_path: Path, day: Day) -> None:
    fill(nats_url, day)
    policy = tmp_path / "careful.yaml"
    policy.write_text("backends:\n  cuda: {headroom_fraction: 0.7}\n")
    careful = document(shardbus_here("replay-decisions", "--policy", policy, "--json", SHARDBUS_NATS_URL=nats_url))
    kinds = careful["summary"]["kinds"]
    assert kinds["now_refused"] > 0
    assert "now_granted" not in kinds
    assert sum(kinds.values()) == day.decided
    assert len(careful["different"]) == day.decided - kinds.get("identical", 0)
    refused = next(one for one in careful["different"] if one["kind"] == "now_refused")
    assert refused["before"]["stages"]
    assert refused["after"]["refusal"]
    assert refused["position"]["as_of"]
    told = shardbus_here("replay-decisions", "--objective", "throughput", "-n", "1", SHARDBUS_NATS_URL=nats_url)
    assert told.returncode == 0, told.stderr
    assert "objective throughput" in told.stdout
    assert "another plan" in told.stdout
    first = min(one["sequence"] for one in careful["different"])
    only = document(
        shardbus_here(
            "replay-decisions",
            "--policy",
            policy,
            "--since",
            first,
            "--until",
            first,
            "--json",
            SHARDBUS_NATS_URL=nats_url,
        )
    )
    assert [one["sequence"] for one in only["different"]] == [first]


def test_what_nats_trimmed_is_left_out_and_said(nats_url: str, tmp_path: Path, day: Day) -> None:
    fill(nats_url, day)

    async def trim() -> None:
        async with bus_with_streams(nats_url) as bus:
            end = (await bus.info(TELEMETRY)).last_sequence
            await bus._connection.api("STREAM.PURGE", TELEMETRY, body={"seq": end})

    asyncio.run(trim())
    told = shardbus_here("replay-decisions", SHARDBUS_NATS_URL=nats_url)
    assert told.returncode == 0
    assert "left out: the readings that they saw are not kept any more" in told.stdout
    late = shardbus_here("archive", tmp_path / "late", SHARDBUS_NATS_URL=nats_url)
    assert late.returncode == 0
    assert "gone before it was archived; noted as a gap" in late.stderr
    assert shardbus_here("archive", tmp_path / "late", "--verify").returncode == 0


def test_damage_is_found_and_has_an_exit_code(nats_url: str, tmp_path: Path, day: Day) -> None:
    fill(nats_url, day)
    folder = tmp_path / "archive"
    assert document(shardbus_here("archive", folder, "--stream", "fleet", "--json", SHARDBUS_NATS_URL=nats_url))[0][
        "new"
    ]
    whole = shardbus_here("archive", folder, "--verify")
    assert (whole.returncode, "whole" in whole.stdout) == (0, True)
    (file,) = folder.glob("FLEET/*.zst")
    file.write_bytes(file.read_bytes()[:-3])
    torn = shardbus_here("archive", folder, "--verify")
    assert torn.returncode == 1
    assert f"{file}: damaged" in torn.stderr
    assert document(shardbus_here("archive", folder, "--verify", "--json"), code=1)[0]["problems"]
    read = shardbus_here("replay-decisions", "--archive", folder)
    assert read.returncode == 1
    assert "restore this file" in read.stderr


def test_a_folder_that_cannot_be_written_is_named(nats_url: str, day: Day) -> None:
    fill(nats_url, day)
    done = shardbus_here("archive", "/proc/archive", SHARDBUS_NATS_URL=nats_url)
    assert done.returncode == 1
    assert "/proc/archive: cannot be written" in done.stderr


def test_it_goes_on_by_itself_and_may_be_killed_at_any_time(nats_url: str, tmp_path: Path, day: Day) -> None:
    folder, log = tmp_path / "archive", tmp_path / "log"
    fill(nats_url, day)
    end = len(day.bus.server.log(FLEET).messages)

    def archived() -> int:
        manifest = folder / "FLEET" / "manifest.json"
        return json.loads(manifest.read_text())["last_sequence"] if manifest.exists() else 0

    with running("archive", folder, "--every", "1", log=log, SHARDBUS_NATS_URL=nats_url) as first:
        asyncio.run(until(lambda: archived() == end, what="the first run"))
        first.kill()
    fill(nats_url, day, beginning=end - 5)
    with running("archive", folder, "--every", "1", log=log, SHARDBUS_NATS_URL=nats_url) as second:
        asyncio.run(until(lambda: archived() == end + 5, what="the second run"))
        assert second.stop(signal.SIGINT) == 130
    assert shardbus_here("archive", folder, "--verify").returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["replay-decisions", "--archive", "/nonexistent"], 1, "no such folder"),
        (["replay-decisions", "--since", "yesterday"], 2, "--since: 'yesterday' is no moment"),
        (["replay-decisions", "--policy", "/nonexistent.yaml"], 2, "no such file"),
        (["replay-decisions"], 5, "NATS"),
        (["archive", "/tmp", "--verify", "--every", "3"], 2, "--verify checks the whole archive"),
        (["archive", "/tmp/x", "--stream", "commands"], 2, "stream"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(words: list[str], code: int, said: str) -> None:
    done = shardbus_here(*words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
