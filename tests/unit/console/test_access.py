"""The commands that make and show tokens, and how a token gets to a command: never by the command line."""

import json
import logging
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from shardbus_console import access_token as of_the_console
from shardbus_console.access_token import access_token, with_access
from shardbus_console.exits import CommandError
from shardbus_placer.access.check import Access, grant_of
from shardbus_placer.access.key_ring import read_keys
from shardbus_placer.access.keys import private_key_of
from shardbus_placer.access.token import MOST_CHARACTERS
from shardbus_schemas.access import Grant
from shardbus_schemas.commands import Delete, Place
from support.access_tokens import claims_with, token_of
from support.command_line import document, shardbus_here

NOW = datetime.now(UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = shardbus_here("access", "keygen", "--output", tmp_path / "keys", "--name", "owner")
    assert (made.returncode, made.stdout) == (0, "")
    return tmp_path / "keys"


def granted(folder: Path, *flags: str) -> CompletedProcess[str]:
    return shardbus_here("access", "grant", "--key", folder / "owner.private.jwk", *flags)


def opened(folder: Path, done: CompletedProcess[str]) -> Grant:
    """Return what a placer makes of what ``grant`` printed."""
    assert done.returncode == 0, done.stderr
    access = Access(read_keys(folder / "owner.public.jwk"))
    grant = grant_of(done.stdout.removesuffix("\n"), access, datetime.now(UTC))
    assert isinstance(grant, Grant)
    return grant


def test_a_pair_of_keys_is_one_secret_and_one_for_every_placer(folder: Path) -> None:
    private, public = folder / "owner.private.jwk", folder / "owner.public.jwk"
    assert private.stat().st_mode & 0o777 == 0o600
    assert read_keys(public) == {"owner": private_key_of(private.read_text(), file="k").public}
    assert '"d"' not in public.read_text()


def test_a_key_is_never_written_over(folder: Path) -> None:
    before = (folder / "owner.private.jwk").read_bytes()
    again = shardbus_here("access", "keygen", "--output", folder, "--name", "owner")
    assert (again.returncode, "choose another --name" in again.stderr) == (4, True)
    assert (folder / "owner.private.jwk").read_bytes() == before


def test_without_a_name_each_key_has_one_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        assert shardbus_here("access", "keygen", "--output", tmp_path).returncode == 0
    names = [file.name for file in tmp_path.glob("*.public.jwk")]
    assert len(names) == 2
    assert all(re.fullmatch(r"key-[0-9a-f]{12}\.public\.jwk", name) for name in names)


def test_a_name_that_no_placer_takes_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = shardbus_here("access", "keygen", "--output", tmp_path / "keys", "--name", "../owner")
    assert (done.returncode, "kid" in done.stderr) == (2, True)
    assert not (tmp_path / "keys").exists()


def test_keys_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = shardbus_here("access", "keygen", "--output", tmp_path / "file")
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr


def test_a_token_grants_what_the_flags_say(folder: Path) -> None:
    flags = "--subject alice --devices attic,desk/cuda:0 --devices cellar --memory 48GiB --until 7d --max-priority 10"
    done = granted(folder, *flags.split(), "--may", "place,delete")
    grant = opened(folder, done)
    assert grant.expires_at is not None
    assert abs(grant.expires_at - datetime.now(UTC) - timedelta(days=7)) < timedelta(minutes=5)
    assert grant.token_id
    assert grant.model_copy(update={"expires_at": None, "token_id": None}) == Grant(
        subject="alice",
        issuer="owner",
        devices=("attic", "desk/cuda:0", "cellar"),
        memory_bytes=48 * 2**30,
        max_priority=10,
        operations=("place", "delete"),
    )
    assert done.stdout.count("\n") == 1
    assert "attic, desk/cuda:0, cellar" in done.stderr
    assert done.stdout.strip() not in done.stderr


def test_without_flags_a_token_grants_the_usual(folder: Path) -> None:
    grant = opened(folder, granted(folder, "--subject", "alice", "--until", "2099-01-31T12:00:00+01:00"))
    usual = Grant(subject="alice")
    assert (grant.devices, grant.memory_bytes, grant.operations) == (None, None, usual.operations)
    assert grant.expires_at == datetime(2099, 1, 31, 11, tzinfo=UTC)


def test_all_is_every_operation(folder: Path) -> None:
    grant = opened(folder, granted(folder, "--subject", "owner", "--until", "12h", "--may", "all"))
    assert set(grant.operations) == {"place", "delete", "move", "scale", "cordon", "rebalance", "model"}


def test_two_tokens_of_the_same_flags_are_told_apart(folder: Path) -> None:
    one, two = (opened(folder, granted(folder, "--subject", "alice", "--until", "2099-01-01")) for _ in range(2))
    assert one.token_id != two.token_id


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--subject", "alice"), "--until"),
        (("--until", "7d"), "--subject"),
        (("--subject", "alice", "--until", "soon"), "--until soon: write how long"),
        (("--subject", "alice", "--until", "-7d"), "--until -7d: write how long"),
        (("--subject", "alice", "--until", "999999w"), "--until 999999w: write how long"),
        (("--subject", "alice", "--until", "0d"), "that is over"),
        (("--subject", "alice", "--until", "2020-01-01"), "that is over"),
        (("--subject", "", "--until", "7d"), "subject: "),
        (("--subject", "\x1b[2J", "--until", "7d"), "sub: "),
        (("--subject", "a", "--until", "7d", "--memory", "48"), "--memory '48': the unit is missing"),
        (("--subject", "a", "--until", "7d", "--memory", "9e30B"), "memory_bytes"),
        (("--subject", "a", "--until", "7d", "--max-priority", "1001"), "max_priority"),
        (("--subject", "a", "--until", "7d", "--may", "plaice"), "did you mean 'place'?"),
        (
            ("--subject", "a", "--until", "7d", "--devices", ",".join(f"n{i:05}" for i in range(1500))),
            "name fewer devices",
        ),
    ],
)
def test_what_cannot_be_granted_is_said_and_nothing_is_signed(folder: Path, flags: tuple[str, ...], said: str) -> None:
    done = granted(folder, *flags)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_public_key_signs_nothing(folder: Path) -> None:
    done = shardbus_here("access", "grant", "--key", folder / "owner.public.jwk", "--subject", "alice", "--until", "7d")
    assert (done.returncode, done.stdout, "a public key" in done.stderr) == (2, "", True)


def test_a_private_key_that_others_can_read_is_said(folder: Path) -> None:
    assert "chmod" not in granted(folder, "--subject", "alice", "--until", "7d").stderr
    (folder / "owner.private.jwk").chmod(0o644)
    assert "chmod 600" in granted(folder, "--subject", "alice", "--until", "7d").stderr


@pytest.mark.parametrize("way", ["stdin", "file", "environment", "argument"])
def test_a_token_is_shown_with_whether_it_is_good_and_is_not_repeated(folder: Path, way: str, tmp_path: Path) -> None:
    token = granted(folder, "--subject", "alice", "--until", "7d", "--memory", "1GiB").stdout
    file = tmp_path / "alice.token"
    file.write_text(token)
    keys = ("--keys", folder / "owner.public.jwk")
    done = {
        "stdin": lambda: shardbus_here("access", "show", "-", *keys, stdin=token),
        "file": lambda: shardbus_here("access", "show", "--access-token-file", file, *keys),
        "environment": lambda: shardbus_here("access", "show", *keys, SHARDBUS_ACCESS_TOKEN=token.strip()),
        "argument": lambda: shardbus_here("access", "show", token.strip(), *keys),
    }[way]()
    assert done.returncode == 0, done.stderr
    assert "alice" in done.stdout
    assert "1.0 GiB" in done.stdout
    assert "valid: signed by owner" in done.stderr
    assert not any(part in done.stdout + done.stderr for part in token.strip().split("."))


def test_the_keys_may_be_those_that_the_placer_is_told(folder: Path) -> None:
    token = granted(folder, "--subject", "alice", "--until", "7d").stdout
    done = shardbus_here(
        "access", "show", "-", "--json", stdin=token, SHARDBUS_ACCESS_KEYS=str(folder / "owner.public.jwk")
    )
    told = document(done)
    assert (told["valid"], told["problem"], told["grant"]["subject"]) == (True, None, "alice")


def test_without_keys_nobody_says_that_it_is_good(folder: Path) -> None:
    token = granted(folder, "--subject", "alice", "--until", "7d").stdout
    done = shardbus_here("access", "show", "-", stdin=token)
    assert (done.returncode, "not checked" in done.stderr, "valid" in done.stderr) == (0, True, False)
    assert document(shardbus_here("access", "show", "-", "--json", stdin=token))["valid"] is None


@pytest.mark.parametrize(("with_keys", "said"), [(True, "does not know: kid 'owner'"), (False, "")])
def test_a_foreign_token_is_shown_and_refused(folder: Path, tmp_path: Path, *, with_keys: bool, said: str) -> None:
    other = tmp_path / "other"
    assert shardbus_here("access", "keygen", "--output", other, "--name", "other").returncode == 0
    token = granted(folder, "--subject", "alice", "--until", "7d").stdout
    keys = ("--keys", other / "other.public.jwk") if with_keys else ()
    done = shardbus_here("access", "show", "-", *keys, stdin=token)
    assert (done.returncode, "alice" in done.stdout, said in done.stderr) == (3 if with_keys else 0, True, True)


def test_a_token_that_ended_is_refused_with_or_without_keys() -> None:
    ended = token_of(claims_with(exp=int((NOW - timedelta(days=1)).timestamp())))
    done = shardbus_here("access", "show", "-", stdin=ended)
    assert (done.returncode, "ended at" in done.stderr) == (3, True)


@pytest.mark.parametrize("text", ["x", "a.b.c", token_of({"sub": "alice"}), token_of(b"?")])
def test_what_is_no_token_is_not_shown(text: str) -> None:
    done = shardbus_here("access", "show", "-", stdin=text)
    assert (done.returncode, done.stdout, "no access token" in done.stderr) == (3, "", True)


def test_nothing_to_show_is_said() -> None:
    done = shardbus_here("access", "show")
    assert (done.returncode, "--access-token-file" in done.stderr) == (2, True)


def test_a_command_gets_the_token_of_the_file_before_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("from.the.file\n")
    place = Place(model_id="tiny")
    monkeypatch.delenv("SHARDBUS_ACCESS_TOKEN", raising=False)
    assert with_access(place, None) is place
    assert with_access(place, file).access_token == "from.the.file"
    monkeypatch.setenv("SHARDBUS_ACCESS_TOKEN", "from.the.environment")
    assert with_access(Delete(instance_id="i"), None).access_token == "from.the.environment"
    assert with_access(place, file).access_token == "from.the.file"
    monkeypatch.setenv("SHARDBUS_ACCESS_TOKEN", "")
    assert access_token(None) is None


@pytest.mark.parametrize("text", ["", " \n", "two words", "x" * (MOST_CHARACTERS + 1)])
def test_a_file_that_holds_no_token_is_said_without_showing_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(CommandError) as refused:
        access_token(file)
    assert str(refused.value) == (f"{file}: an access token is expected, one word; `shardbus access grant` makes one")


def test_the_console_and_the_placer_agree_on_how_long_a_token_may_be() -> None:
    assert of_the_console._MOST_CHARACTERS == MOST_CHARACTERS
    assert Place(model_id="tiny", access_token="x" * MOST_CHARACTERS)


@pytest.mark.parametrize("command", [("place", "llama-3.1-8b"), ("delete", "i"), ("model", "add", "MODEL")])
def test_no_command_says_its_token_where_it_fails(
    command: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens there; what is said of that, in whatever detail, is not who asked."""
    caplog.set_level(logging.DEBUG)
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
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
        )
    )
    words = [str(config) if word == "MODEL" else word for word in command]
    done = shardbus_here(*words, SHARDBUS_ACCESS_TOKEN="s3cret.t0ken.here", SHARDBUS_LOG_LEVEL="debug")
    assert done.returncode == 5, done.stderr
    assert "t0ken" not in done.stdout + done.stderr + caplog.text
    missing = shardbus_here(*words, "--access-token-file", tmp_path / "none")
    assert (missing.returncode, "no such file" in missing.stderr) == (2, True)
