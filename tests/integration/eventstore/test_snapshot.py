"""What is asked of the read model in several queries is the answer of one moment."""

import pytest
from shardbus_eventstore.read_model.database import open_engine, snapshot
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

pytestmark = pytest.mark.connected


def test_every_query_sees_the_rows_of_the_first_ones_moment(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE public.shards (instance_id text)"))
    with snapshot(engine) as reading:
        assert reading.scalar(text("SELECT count(*) FROM public.shards")) == 0
        with engine.begin() as writing:
            writing.execute(text("INSERT INTO public.shards VALUES ('tiny')"))
        assert reading.scalar(text("SELECT count(*) FROM public.shards")) == 0
    with snapshot(engine) as reading:
        assert reading.scalar(text("SELECT count(*) FROM public.shards")) == 1


def test_a_reader_cannot_write(postgres_url: str) -> None:
    with snapshot(open_engine(postgres_url)) as reading, pytest.raises(DBAPIError, match="read-only transaction"):
        reading.execute(text("CREATE TABLE public.mine (name text)"))
