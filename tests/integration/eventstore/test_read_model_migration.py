"""Bringing the tables about."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from shardbus_eventstore.errors import DatabaseRightsError, DatabaseUnreachableError, SchemaError
from shardbus_eventstore.migrate import _config, current_revision, head_revision, upgrade
from shardbus_eventstore.read_model.database import open_engine
from shardbus_eventstore.read_model.tables import Base
from sqlalchemy import make_url, text

pytestmark = pytest.mark.connected


def test_the_migrations_make_the_tables_of_the_models(postgres_url: str) -> None:
    upgrade(postgres_url)
    with open_engine(postgres_url).connect() as connection:
        parts = set(connection.execute(text("SELECT inhrelid::regclass::text FROM pg_inherits")).scalars())
        options = {
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "table" or name not in parts,
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
        assert current_revision(connection) == head_revision()


def test_several_processes_may_upgrade_at_once(postgres_url: str) -> None:
    with ThreadPoolExecutor(4) as processes:
        list(processes.map(upgrade, [postgres_url] * 4))
    upgrade(postgres_url)


def test_tables_of_a_newer_program_are_left_alone(postgres_url: str) -> None:
    upgrade(postgres_url)
    with open_engine(postgres_url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match=r"newer shardbus \(revision 9999; this program knows up to \d+\); update"):
        upgrade(postgres_url)


def test_a_user_without_rights_is_told_what_to_grant(postgres_url: str) -> None:
    url = make_url(postgres_url)
    with open_engine(postgres_url).begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS guest"))
        connection.execute(text("CREATE ROLE guest LOGIN PASSWORD 'guest'"))
    try:
        guest = url.set(username="guest", password="guest").render_as_string(hide_password=False)
        with pytest.raises(DatabaseRightsError, match=r"'guest' may not .*OWNER TO guest"):
            upgrade(guest)
    finally:
        with open_engine(postgres_url).begin() as connection:
            connection.execute(text("DROP ROLE guest"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"port": 9}, "cannot be used"),
        ({"password": "wrong"}, "password authentication failed"),
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
    ],
    ids=["nobody listens", "wrong password", "no database"],
)
def test_what_keeps_from_connecting_is_said_without_the_password(
    postgres_url: str, change: dict[str, object], said: str
) -> None:
    url = make_url(postgres_url)
    wrong = url.set(**change).render_as_string(hide_password=False)  # pyright: ignore[reportArgumentType] -- parametrised
    with pytest.raises(DatabaseUnreachableError) as refused:
        upgrade(wrong)
    assert said in str(refused.value)
    assert str(url.password) not in str(refused.value)


@pytest.mark.parametrize("address", ["mysql://somewhere/db", "not an address"])
def test_an_address_that_is_not_of_postgres_is_refused(address: str) -> None:
    with pytest.raises(DatabaseUnreachableError, match="postgresql://"):
        upgrade(address)


def test_tables_of_a_program_that_knew_no_schema_move_with_their_rows(postgres_url: str) -> None:
    as_of_revision_0003(postgres_url)
    with open_engine(postgres_url).begin() as connection:
        names = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'shardbus'")).scalars()
        for name in names.all():
            connection.execute(text(f"ALTER TABLE {name} SET SCHEMA public"))
        connection.execute(text("ALTER VIEW fleet_devices SET SCHEMA public"))
        connection.execute(text("DROP SCHEMA shardbus CASCADE"))
        connection.execute(
            text(
                "INSERT INTO public.links VALUES ('a', 'b', 1, 0.1, 'probe', now(), 1, now(), NULL, NULL, NULL, false)"
            )
        )
    upgrade(postgres_url)
    with open_engine(postgres_url).connect() as connection:
        assert connection.scalar(text("SELECT from_node FROM links")) == "a"
        assert connection.scalar(text("SELECT count(*) FROM fleet_devices")) == 0
        assert connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")) == 0


def test_past_readings_of_before_are_still_there_and_new_ones_find_their_place(postgres_url: str) -> None:
    as_of_revision_0003(postgres_url)
    insert = "INSERT INTO device_history (node_id, device_id, last_update, sequence, recorded_at) VALUES "
    with open_engine(postgres_url).begin() as connection:
        connection.execute(
            text(insert + "('n', 'd', now(), 1, now() - interval '90 days'), ('n', 'd', now(), 2, now())")
        )
    upgrade(postgres_url)
    with open_engine(postgres_url).begin() as connection:
        for sequence, at in enumerate(("now()", "now() - interval '20 years'", "now() + interval '3 days'"), 3):
            connection.execute(text(f"{insert} ('n', 'd', now(), {sequence}, {at})"))
        query = text("SELECT tableoid::regclass::text, count(*) FROM device_history GROUP BY 1")
        found = dict(tuple(row) for row in connection.execute(query))
    assert found == {"device_history_before": 4, "device_history_default": 1}


def as_of_revision_0003(url: str) -> None:
    """Bring about the tables that a program of revision 0003 left, as far as the schema goes."""
    with open_engine(url).begin() as connection:
        connection.execute(text("CREATE SCHEMA shardbus"))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")


def test_two_read_models_live_in_one_database(postgres_url: str) -> None:
    upgrade(postgres_url)
    upgrade(postgres_url, schema="another")
    with open_engine(postgres_url, schema="another").connect() as connection:
        assert current_revision(connection) == head_revision()
