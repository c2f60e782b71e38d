"""One trace leads from whoever published a command, through the placer, to the read model."""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import nats
import pytest
from shardbus_infra.bus.streams import STREAMS
from support.collector import collector, spans_of
from support.waiting import until_sync

pytestmark = [pytest.mark.connected, pytest.mark.slow]


@contextmanager
def process(name: str, environment: dict[str, str]) -> Generator[None]:
    with subprocess.Popen([sys.executable, "-m", "shardbus_console", name], env=environment) as running:
        try:
            yield
        finally:
            running.terminate()
            assert running.wait(30) == 0


def test_a_command_can_be_followed_to_the_read_model(nats_url: str, postgres_url: str) -> None:
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)

    async def publish() -> None:
        client = await nats.connect(nats_url)
        headers = {"traceparent": f"00-{trace_id}-{caller}-01"}
        await client.jetstream().publish("shardbus.v1.command.place", b'{"model_id": "no-such-model"}', headers=headers)
        await client.close()

    with collector() as server:
        environment = os.environ | {
            "SHARDBUS_NATS_URL": nats_url,
            "SHARDBUS_POSTGRES_URL": postgres_url,
            "SHARDBUS_OTEL_EXPORTER": "otlp",
            "SHARDBUS_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with process("placer", environment), process("projector", environment):
            until_sync(lambda: _streams_exist(nats_url), within=60, what="the streams")
            asyncio.run(publish())
            until_sync(
                lambda: any(span.name == "project PlacementRejected" for span in spans_of(server)),
                within=60,
                what="the projector's span",
            )
            spans = {span.name: span for span in spans_of(server) if span.trace_id.hex() == trace_id}
    answer, project = spans["answer Place"], spans["project PlacementRejected"]
    assert answer.parent_span_id.hex() == caller
    assert project.parent_span_id == answer.span_id
    assert {a.key: a.value.string_value for a in answer.attributes}["shardbus.answer"] == "PlacementRejected"


def _streams_exist(nats_url: str) -> bool:
    async def look() -> bool:
        client = await nats.connect(nats_url)
        try:
            return len(await client.jetstream().streams_info()) == len(STREAMS)
        finally:
            await client.close()

    return asyncio.run(look())
