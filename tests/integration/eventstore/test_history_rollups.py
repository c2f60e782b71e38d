"""Minutes and hours of past readings, against a plain reference in Python."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from shardbus_eventstore.migrate import upgrade
from shardbus_eventstore.read_model.tables import FIGURES
from shardbus_eventstore.rollups import adopt, complete, step
from sqlalchemy import make_url
from support.rollup_reference import Bucket, Figure, Read, rolled_up

pytestmark = pytest.mark.connected

Driver = psycopg.Connection[Any]
START = datetime(2026, 11, 20, 9, 50, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
DEVICES = (("n1", "g1"), ("n1", "g2"))


@pytest.fixture
def driver(postgres_url: str) -> Any:
    upgrade(postgres_url)
    with connected(postgres_url) as connection:
        yield connection


def connected(postgres_url: str, schema: str = "shardbus") -> Driver:
    url = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, autocommit=True, options=f"-c timezone=UTC -c search_path={schema}")


def forget_all(driver: Driver) -> None:
    driver.execute(
        "TRUNCATE device_history, device_history_minutes, device_history_hours, history_progress, checkpoints"
    )


def put(driver: Driver, readings: Sequence[tuple[int, tuple[str, str], Read]]) -> None:
    """Write readings as the projector does: with their sequence, and the position moved to the last."""
    columns = ", ".join(FIGURES.values())
    with driver.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO device_history (node_id, device_id, sequence, recorded_at, last_update, {columns}) "
            f"VALUES (%s, %s, %s, %s, %s, {', '.join(['%s'] * len(FIGURES))})",
            [(*device, number, read.at, read.at, *read.figures.values()) for number, device, read in readings],
        )
    last = readings[-1]
    reach(driver, last[0], last[2].at)


def reach(driver: Driver, sequence: int, at: datetime, created: datetime = START) -> None:
    driver.execute("DELETE FROM checkpoints")
    driver.execute(
        "INSERT INTO checkpoints VALUES ('TELEMETRY', 1, 'TELEMETRY', %s, %s, %s, 1, 0, 0, 0, 0, now(), 0, NULL, '{}')",
        [created, sequence, at],
    )


def found(driver: Driver, table: str) -> Mapping[tuple[str, str], dict[datetime, Bucket]]:
    buckets: dict[tuple[str, str], dict[datetime, Bucket]] = {device: {} for device in DEVICES}
    for row in driver.cursor(row_factory=dict_row).execute(f"SELECT * FROM {table}"):
        figures = {
            name: Figure(*(row[f"{name}_{part}"] for part in ("min", "mean", "max", "seconds"))) for name in FIGURES
        }
        buckets[row["node_id"], row["device_id"]][row["at"]] = Bucket(row["samples"], figures)
    return buckets


def assert_is_the_reference(driver: Driver, readings: Sequence[tuple[int, tuple[str, str], Read]]) -> None:
    """Compare both tables with the reference, over all minutes and hours that the stream is past."""
    by_time = sorted(readings, key=lambda each: (each[2].at, each[0]))
    last = readings[-1][2].at
    for table, width in (("device_history_minutes", MINUTE), ("device_history_hours", HOUR)):
        begin, end = floor(by_time[0][2].at, width), floor(last, width)
        for device, buckets in found(driver, table).items():
            own = [read for _, its, read in by_time if its == device]
            expected = rolled_up(own, begin, max(begin, end), width)
            assert buckets.keys() == expected.keys(), (table, device)
            for at, bucket in buckets.items():
                assert bucket.samples == expected[at].samples
                for name, figure in bucket.figures.items():
                    wanted = expected[at].figures[name]
                    assert [each is None for each in figure] == [each is None for each in wanted], (table, at, name)
                    for value, other in zip(figure, wanted, strict=True):
                        assert value is None or value == pytest.approx(other, rel=1e-9, abs=1e-6), (table, at, name)


def floor(moment: datetime, width: timedelta) -> datetime:
    return moment - (moment - datetime(2000, 1, 1, tzinfo=UTC)) % width


@st.composite
def read(draw: st.DrawFn, at: datetime) -> Read:
    values = st.none() | st.integers(0, 100).map(float)
    return Read(at, {name: draw(values) for name in FIGURES})


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[int, tuple[str, str], Read]]:
    """Return readings in stream order; mostly each comes after the one before, but clocks jump back now and then."""
    gaps = st.sampled_from([0.0, 0.5, 7.25, 59.9, 60.0, 61.0, 179.0, 180.0, 200.0, 700.0, -30.0, -400.0])
    at, found = START + timedelta(minutes=15), list[tuple[int, tuple[str, str], Read]]()
    for number, gap in enumerate(draw(st.lists(gaps, min_size=1, max_size=25)), 1):
        at = max(START, at + timedelta(seconds=gap))
        found.append((number, draw(st.sampled_from(DEVICES)), draw(read(at))))
    return found


@given(readings=streams(), cuts=st.sets(st.integers(1, 24), max_size=4))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_minutes_and_hours_are_those_of_the_reference_however_the_stream_came(
    driver: Driver, readings: list[tuple[int, tuple[str, str], Read]], cuts: set[int]
) -> None:
    forget_all(driver)
    places = [0, *sorted(cut for cut in cuts if cut < len(readings)), len(readings)]
    for low, high in pairwise(places):
        put(driver, readings[low:high])
        complete(driver)
    assert_is_the_reference(driver, readings)
    before = found(driver, "device_history_minutes"), found(driver, "device_history_hours")
    assert complete(driver) == 0
    driver.execute("UPDATE history_progress SET sequence = 0")  # all of it once more
    complete(driver)
    assert before == (found(driver, "device_history_minutes"), found(driver, "device_history_hours"))


def steady(count: int, *, first: int = 1, seconds: float = 20) -> list[tuple[int, tuple[str, str], Read]]:
    return [
        (number, DEVICES[0], Read(START + number * timedelta(seconds=seconds), dict.fromkeys(FIGURES, float(number))))
        for number in range(first, first + count)
    ]


def test_a_value_holds_until_the_next_and_weighs_as_long_as_it_held(driver: Driver) -> None:
    def at(seconds: float, value: float) -> tuple[int, tuple[str, str], Read]:
        return int(seconds) + 1, DEVICES[0], Read(START + timedelta(seconds=seconds), dict.fromkeys(FIGURES, value))

    put(driver, [at(0, 10), at(45, 50), at(400, 0)])
    complete(driver)
    minutes = found(driver, "device_history_minutes")[DEVICES[0]]
    first, second, fourth = minutes[START], minutes[START + MINUTE], minutes[START + 3 * MINUTE]
    assert (first.samples, first.figures["temperature_c"]) == (2, Figure(10, (45 * 10 + 15 * 50) / 60, 50, 60))
    assert (second.samples, second.figures["temperature_c"]) == (0, Figure(50, 50, 50, 60))
    assert fourth.figures["temperature_c"] == Figure(50, 50, 50, 45), "three minutes after it was said, it is not known"
    assert START + 4 * MINUTE not in minutes


def test_a_long_backlog_is_rolled_up_in_steps(driver: Driver) -> None:
    put(driver, steady(400))
    assert complete(driver) > 5
    assert_is_the_reference(driver, steady(400))


def test_a_stream_that_lost_its_tail_is_rolled_up_anew(driver: Driver) -> None:
    put(driver, steady(60))
    complete(driver)
    driver.execute("DELETE FROM device_history WHERE sequence > 30")
    reach(driver, 30, START + timedelta(minutes=10))
    again = [*steady(30), (31, DEVICES[1], Read(START + timedelta(minutes=12), dict.fromkeys(FIGURES, 1.0)))]
    put(driver, again[30:])
    complete(driver)
    assert_is_the_reference(driver, again)


def test_what_was_made_of_readings_that_are_gone_stays_as_it_is(driver: Driver) -> None:
    put(driver, steady(200))
    complete(driver)
    before = found(driver, "device_history_minutes")[DEVICES[0]]
    fixed = START + timedelta(minutes=30)
    driver.execute("DELETE FROM device_history WHERE recorded_at < %s", [fixed])
    driver.execute("UPDATE history_progress SET fixed_before = %s", [fixed])
    late = (201, DEVICES[0], Read(START + timedelta(minutes=5), dict.fromkeys(FIGURES, 9999.0)))
    put(driver, [late, *steady(1, first=202)])
    complete(driver)
    after = found(driver, "device_history_minutes")[DEVICES[0]]
    assert {at: bucket for at, bucket in after.items() if at < fixed} == {
        at: bucket for at, bucket in before.items() if at < fixed
    }


def test_a_read_model_built_anew_takes_over_what_no_reading_tells_any_more(driver: Driver, postgres_url: str) -> None:
    put(driver, steady(400))
    complete(driver)
    fixed = START + timedelta(minutes=70)  # 11 o'clock
    driver.execute("DELETE FROM device_history WHERE recorded_at < %s", [fixed - HOUR])
    driver.execute("UPDATE history_progress SET fixed_before = %s", [fixed])
    before = found(driver, "device_history_minutes"), found(driver, "device_history_hours")
    upgrade(postgres_url, schema="another")
    with connected(postgres_url, "another") as another:
        put(another, [each for each in steady(400) if each[2].at >= fixed - HOUR])
        for _ in range(2):
            adopt(another, "shardbus")
            complete(another)
        assert (found(another, "device_history_minutes"), found(another, "device_history_hours")) == before


def test_two_keepers_at_once_do_no_harm(driver: Driver, postgres_url: str) -> None:
    put(driver, steady(60))
    with connected(postgres_url) as other, other.transaction():
        other.execute("INSERT INTO history_progress VALUES ('device_history', NULL, 0, NULL, NULL)")
        other.execute("SET LOCAL lock_timeout = '1s'")
        driver.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.OperationalError):
            step(driver)
    driver.execute("RESET lock_timeout")
    complete(driver)
    assert_is_the_reference(driver, steady(60))
