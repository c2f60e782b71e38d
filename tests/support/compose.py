"""The services of a compose file as containers, by the Docker that answers: no compose plugin is needed.

Only what ``infra/cluster/compose.yaml`` says of a server is understood: image, command, environment, ports and a
mounted file. Ports are published on free ones of loopback, volumes are the containers' own.
"""

import io
import tarfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import yaml
from docker.models.containers import Container
from docker.models.networks import Network
from shardbus_infra.embedded.ports import HOST, free_port

COMPOSE_FILE = Path(__file__).parents[2] / "infra" / "cluster" / "compose.yaml"
SERVERS = ("nats-1", "nats-2", "nats-3")


class Composed:
    """Containers by their service's name, on a network of their own; ``url`` is theirs as seen from here."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.containers: dict[str, Container] = {}
        self.ports: dict[str, int] = {}

    @property
    def url(self) -> str:
        """The servers' addresses, separated by commas."""
        return ",".join(f"nats://{HOST}:{port}" for port in self.ports.values())

    def disconnect(self, service: str) -> None:
        """Take the network from a container, as seen by the others and from here."""
        self.network.disconnect(self.containers[service])

    def connect(self, service: str) -> None:
        """Give it back."""
        self.network.connect(self.containers[service], aliases=[service])


@contextmanager
def composed(client: docker.DockerClient, file: Path, services: Iterable[str]) -> Generator[Composed]:
    """Run ``services`` of ``file``; removed at the end, with their data."""
    document = yaml.safe_load(file.read_text())
    network = client.networks.create(f"shardbus-test-{uuid4().hex[:8]}")
    running = Composed(network)
    try:
        for name in services:
            running.containers[name] = _started(client, network, file.parent, name, document["services"][name], running)
        yield running
    finally:
        for container in running.containers.values():
            container.remove(force=True, v=True)
        network.remove()


def _started(
    client: docker.DockerClient, network: Network, folder: Path, name: str, service: dict[str, Any], running: Composed
) -> Container:
    # The same at every start of the container, as with compose: a free port of Docker's choice would change.
    running.ports[name] = free_port()
    container = client.containers.create(
        service["image"],
        command=service["command"],
        environment=service["environment"],
        name=f"{network.name}-{name}",
        ports={"4222/tcp": (HOST, running.ports[name])},
        networking_config={network.name: client.api.create_endpoint_config(aliases=[name])},
        network=network.name,
    )
    for volume in service["volumes"]:
        source, target = volume.split(":")[:2]
        if source.startswith("./"):
            container.put_archive("/", _archive(folder / source, target))
    container.start()
    return container


def _archive(file: Path, target: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(file, arcname=target.lstrip("/"))
    return content.getvalue()
