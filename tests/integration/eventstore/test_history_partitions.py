"""The days of past readings: there in time, found by any row, dropped whole."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.errors import LockNotAvailable
from shardbus_eventstore.history_keeper import Keeper, Retention, forget
from shardbus_eventstore.migrate import upgrade
from shardbus_eventstore.partitions import Days, drop_before, make_days, make_days_of_strays, partitions
from shardbus_eventstore.read_model.database import open_engine
from shardbus_infra.bus.memory import MemoryBus
from shardbus_infra.bus.publish import publish
from shardbus_schemas.events import DeviceGPUStateUpdated
from sqlalchemy import make_url
from support.histories import reading
from support.projecting import assert_read_model_is_the_fold, caught_up, projector
from support.waiting import until

pytestmark = pytest.mark.connected

Driver = psycopg.Connection[Any]
DAY = timedelta(days=1)
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
TABLE = "device_history"


@pytest.fixture
def driver(postgres_url: str) -> Iterator[Driver]:
    upgrade(postgres_url)
    with connected(postgres_url) as connection:
        yield connection


def connected(postgres_url: str) -> Driver:
    url = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, autocommit=True, options="-c timezone=UTC -c search_path=shardbus")


def put(driver: Driver, *moments: datetime) -> None:
    for moment in moments:
        driver.execute(
            "INSERT INTO device_history (node_id, device_id, last_update, sequence, recorded_at) "
            "VALUES ('n', 'd', now(), 1, %s)",
            [moment],
        )


def rows_by_part(driver: Driver) -> dict[str, int]:
    query = "SELECT tableoid::regclass::text, count(*) FROM device_history GROUP BY 1"
    return dict(driver.execute(query).fetchall())


def days_of(driver: Driver) -> list[str]:
    return [each.name for each in partitions(driver, TABLE)]


def test_days_are_made_once_whatever_the_zone(driver: Driver) -> None:
    late = NOON.replace(hour=23, minute=59).astimezone(datetime.strptime("-0800", "%z").tzinfo)
    make_days(driver, TABLE, late, late + timedelta(minutes=2))
    make_days(driver, TABLE, NOON, NOON)
    assert days_of(driver) == ["device_history_20261120", "device_history_20261121"]
    (first, second) = partitions(driver, TABLE)
    assert (first.low, first.high) == (datetime(2026, 11, 20, tzinfo=UTC), second.low)


def test_a_row_of_a_day_that_nobody_made_is_kept_and_moved_when_it_is(driver: Driver) -> None:
    put(driver, NOON, NOON - 1000 * DAY, NOON + DAY)
    assert rows_by_part(driver) == {"device_history_default": 3}
    make_days_of_strays(driver, TABLE)
    assert rows_by_part(driver) == {
        "device_history_20240224": 1,
        "device_history_20261120": 1,
        "device_history_20261121": 1,
    }


def test_a_connection_that_knows_its_days_asks_nothing(driver: Driver) -> None:
    days = Days()
    days.make(driver, TABLE, NOON, NOON)
    driver.close()
    days.make(driver, TABLE, NOON, NOON + timedelta(hours=11))
    with pytest.raises(psycopg.OperationalError):
        days.make(driver, TABLE, NOON, NOON + DAY)


def test_who_reads_for_long_holds_up_nobody(driver: Driver, postgres_url: str) -> None:
    make_days(driver, TABLE, NOON, NOON)
    put(driver, NOON)
    with connected(postgres_url) as other, other.transaction():
        other.execute("SELECT count(*) FROM device_history")
        make_days(driver, TABLE, NOON + DAY, NOON + DAY)
        with pytest.raises(LockNotAvailable):
            drop_before(driver, TABLE, NOON + DAY)
        put(driver, NOON, NOON + DAY)
    assert rows_by_part(driver) == {"device_history_20261120": 2, "device_history_default": 1}
    make_days(driver, TABLE, NOON + DAY, NOON + DAY)
    assert rows_by_part(driver) == {"device_history_20261120": 2, "device_history_20261121": 1}


def retention(readings: float = 1, minutes: float = 5, hours: float = 10) -> Retention:
    return Retention(readings * DAY, minutes * DAY, hours * DAY)


def test_what_is_too_old_is_dropped_by_whole_days_but_not_before_it_is_rolled_up(driver: Driver) -> None:
    make_days(driver, TABLE, NOON - 3 * DAY, NOON)
    put(driver, *(NOON - number * DAY for number in range(4)))
    forget(driver, retention(), NOON)
    assert len(days_of(driver)) == 4, "nothing is rolled up"
    driver.execute("INSERT INTO history_progress VALUES ('device_history', NULL, 9, %s, NULL)", [NOON - 2 * DAY])
    forget(driver, retention(), NOON)
    assert days_of(driver) == ["device_history_20261118", "device_history_20261119", "device_history_20261120"]
    driver.execute("UPDATE history_progress SET complete_until = %s", [NOON])
    forget(driver, retention(), NOON)
    assert days_of(driver) == ["device_history_20261119", "device_history_20261120"]
    (fixed,) = driver.execute("SELECT fixed_before FROM history_progress").fetchone() or ()
    assert fixed == datetime(2026, 11, 19, 1, tzinfo=UTC)


def test_minutes_and_hours_are_forgotten_in_their_time(driver: Driver) -> None:
    make_days(driver, "device_history_minutes", NOON - 8 * DAY, NOON)
    for table in ("device_history_minutes", "device_history_hours"):
        for days in (0, 4, 7, 11):
            columns = ", ".join(f"{name}_seconds" for name in ("utilization_percent", "temperature_c"))
            columns += ", power_watts_seconds, memory_used_bytes_seconds"
            insert = (
                f"INSERT INTO {table} (node_id, device_id, at, samples, {columns}) VALUES ('n', 'd', %s, 1, 0, 0, 0, 0)"
            )
            driver.execute(insert, [NOON - days * DAY])
    make_days_of_strays(driver, "device_history_minutes")
    forget(driver, retention(), NOON)
    left = {
        table: driver.execute(f"SELECT count(*) FROM {table}").fetchone()
        for table in ("device_history_minutes", "device_history_hours")
    }
    assert left == {"device_history_minutes": (2,), "device_history_hours": (3,)}


def test_one_keeper_works_and_makes_the_days_ahead(driver: Driver, postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    keeper = Keeper.open(engine, retention())
    assert keeper is not None
    try:
        assert Keeper.open(engine, retention()) is None
        assert not keeper.work()
        today = datetime.now(UTC)
        assert days_of(driver) == [f"device_history_{today + number * DAY:%Y%m%d}" for number in range(3)]
    finally:
        keeper.close()


def test_the_projector_rolls_up_what_it_writes(postgres_url: str, driver: Driver) -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        for number in range(4):
            update = DeviceGPUStateUpdated(node_id="n1", boot_id="b", tick=number, states=(reading(),))
            await publish(bus, update, source="test")
        async with projector(bus, postgres_url):
            await caught_up(bus, postgres_url)
            query = "SELECT count(*) FROM history_progress WHERE sequence = 4"
            await until(lambda: driver.execute(query).fetchone() == (1,), within=30, what="the keeper's round")
        await assert_read_model_is_the_fold(bus, postgres_url)

    asyncio.run(scenario())
    assert "device_history_default" not in rows_by_part(driver)
