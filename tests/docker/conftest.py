"""Real NATS and Postgres containers, by testcontainers. Without Docker these tests are skipped, and say why.

SHARDBUS_REQUIRE_DOCKER=1 turns the skip into a failure. SHARDBUS_TEST_NATS_IMAGE and SHARDBUS_TEST_POSTGRES_IMAGE
name other images.
"""

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import docker
import pytest
from docker.errors import DockerException, ImageNotFound
from support.compose import COMPOSE_FILE, SERVERS, Composed, composed
from support.jetstream import delete_streams
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

NATS_IMAGE = os.environ.get("SHARDBUS_TEST_NATS_IMAGE", "nats:2")
POSTGRES_IMAGE = os.environ.get("SHARDBUS_TEST_POSTGRES_IMAGE", "postgres:15")
SERVER_CONFIG = Path(__file__).parents[2] / "infra" / "nats" / "server.conf"


def give_up(reason: str) -> NoReturn:
    """Skip the tests that need Docker, or fail them where Docker was promised."""
    if os.environ.get("SHARDBUS_REQUIRE_DOCKER") == "1":
        pytest.fail(f"SHARDBUS_REQUIRE_DOCKER=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def connect() -> docker.DockerClient:
    """Return a client of the Docker that answers."""
    reason = ""
    with warnings.catch_warnings():
        # Where nobody answers, docker-py drops its socket unclosed.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return docker.from_env(timeout=60)
        except DockerException as error:
            reason = f"Docker does not answer: {error}"
        gc.collect()
    give_up(reason)


def provide(image: str) -> None:
    """Make sure that Docker answers and has ``image``, pulling it if need be."""
    client = connect()
    try:
        client.images.get(image)
    except ImageNotFound:
        try:
            client.images.pull(image)
        except DockerException as error:
            give_up(f"no registry gives {image} (infra/docker/build_images.sh builds it offline): {error}")
    finally:
        client.close()


@pytest.fixture(scope="session")
def nats_container_server() -> Iterator[str]:
    """The address of a NATS server in a container, with the configuration that infra/compose.yaml mounts."""
    provide(NATS_IMAGE)
    container = (
        DockerContainer(NATS_IMAGE)
        .with_command("--config /etc/nats/server.conf")
        .with_copy_into_container(SERVER_CONFIG, "/etc/nats/server.conf")
        .with_exposed_ports(4222)
        .waiting_for(LogMessageWaitStrategy("Server is ready").with_startup_timeout(60))
    )
    with container:
        yield f"nats://{container.get_container_host_ip()}:{container.get_exposed_port(4222)}"


@pytest.fixture
def nats_container(nats_container_server: str) -> str:
    """The address of a NATS server in a container, without a stream."""
    delete_streams(nats_container_server)
    return nats_container_server


@pytest.fixture
def nats_cluster() -> Iterator[Composed]:
    """Three NATS servers in containers as one cluster, as infra/cluster/compose.yaml describes them."""
    provide(NATS_IMAGE)
    client = connect()
    try:
        with composed(client, COMPOSE_FILE, SERVERS) as running:
            yield running
    finally:
        client.close()


@pytest.fixture(scope="session")
def postgres_container() -> Iterator[str]:
    """The address of an empty database of a Postgres server in a container."""
    provide(POSTGRES_IMAGE)
    with PostgresContainer(POSTGRES_IMAGE, username="shardbus", dbname="shardbus", driver=None) as container:
        yield container.get_connection_url()
