"""A command carries its token to the queue, whichever command it is and however the token was given."""

import asyncio
import json
from pathlib import Path

import pytest
from shardbus_infra.bus.streams import COMMANDS
from support.access_tokens import token_of
from support.command_line import shardbus_here
from support.projecting import bus_with_streams

pytestmark = pytest.mark.connected

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "torch_dtype": "float16",
}


def queued(nats_url: str) -> list[str | None]:
    """Return the tokens of the commands that nobody took yet, in order; makes the streams if they are not there."""

    async def read() -> list[str | None]:
        async with bus_with_streams(nats_url) as bus:
            last = (await bus.info(COMMANDS)).last_sequence
            found = [await bus.get(COMMANDS, sequence) for sequence in range(1, last + 1)]
            return [json.loads(stored.payload).get("access_token") for stored in found if stored is not None]

    return asyncio.run(read())


def test_the_token_goes_with_the_command_and_without_one_there_is_none(nats_url: str, tmp_path: Path) -> None:
    token = token_of()
    file, config = tmp_path / "alice.token", tmp_path / "config.json"
    file.write_text(f"{token}\n")
    config.write_text(json.dumps(CONFIG))
    commands = [("place", "llama-3.1-8b"), ("delete", "i"), ("model", "add", str(config))]
    assert queued(nats_url) == []
    for command in commands:
        for flags, variable in ((("--access-token-file", str(file)), None), ((), token), ((), None)):
            done = shardbus_here(
                *command, *flags, "--timeout", "0.1", SHARDBUS_NATS_URL=nats_url, SHARDBUS_ACCESS_TOKEN=variable
            )
            assert (done.returncode, "no placer answered" in done.stderr) == (5, True), done.stderr
            assert token not in done.stdout + done.stderr
    assert queued(nats_url) == [token, token, None] * 3
