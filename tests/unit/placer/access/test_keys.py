"""Keys as files: what is taken, what is refused, and that nothing secret is said."""

import hashlib
import json
import logging
import os
from pathlib import Path

import pytest
from shardbus_infra.errors import FileError
from shardbus_placer.access.key_ring import KeyRing, read_keys
from shardbus_placer.access.keys import PrivateKey, private_key_of, public_keys_of
from support.access_tokens import OWNER, STRANGER, base64url

RSA = {"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"}


def write(file: Path, value: object) -> Path:
    file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return file


def test_a_key_is_read_as_it_was_written() -> None:
    assert public_keys_of(json.dumps(OWNER.public.jwk()), file="k") == [OWNER.public]
    assert private_key_of(json.dumps(OWNER.jwk()), file="k") == OWNER


def test_a_key_that_nobody_names_is_named_by_its_thumbprint() -> None:
    key = PrivateKey.generate()
    jwk = f'{{"crv":"Ed25519","kty":"OKP","x":"{base64url(key.public.x)}"}}'
    assert key.public.name == f"key-{hashlib.sha256(jwk.encode()).hexdigest()[:12]}"
    assert PrivateKey.generate().public != key.public


def test_a_set_is_read_without_the_keys_of_other_kinds() -> None:
    text = json.dumps({"keys": [RSA, OWNER.public.jwk(), "?", STRANGER.public.jwk()]})
    assert public_keys_of(text, file="k") == [OWNER.public, STRANGER.public]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "not a JSON Web Key"),
        ("-----BEGIN PUBLIC KEY-----", "not a JSON Web Key"),
        ("[" * 100_000, "not a JSON Web Key"),
        ([], "not a JSON Web Key"),
        ({}, "crv, kid, kty, x"),
        (RSA, "crv, kty, x"),
        (OWNER.public.jwk() | {"crv": "X25519"}, "crv"),
        (OWNER.public.jwk() | {"kid": ""}, "kid"),
        (OWNER.public.jwk() | {"kid": "a/../b"}, "kid"),
        (OWNER.public.jwk() | {"kid": 7}, "kid"),
        (OWNER.public.jwk() | {"x": "AQAB"}, "x is not 32 bytes"),
        (OWNER.public.jwk() | {"x": "*" * 43}, "x is not 32 bytes"),
        (OWNER.jwk(), "a private key, which no placer needs"),
        ({"keys": {}}, "a list is expected"),
        ({"keys": []}, "no Ed25519 key"),
        ({"keys": [RSA]}, "no Ed25519 key"),
        ({"keys": [OWNER.jwk()]}, "a private key, which no placer needs"),
    ],
)
def test_what_is_no_public_key_is_said_with_its_file(value: object, said: str, tmp_path: Path) -> None:
    file = write(tmp_path / "k.jwk", value)
    with pytest.raises(FileError) as refused:
        read_keys(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert said in str(refused.value)
    assert OWNER.jwk()["d"] not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (OWNER.public.jwk(), "a public key"),
        (OWNER.jwk() | {"d": "AQAB"}, "d is not 32 bytes"),
        (OWNER.jwk() | {"x": STRANGER.public.jwk()["x"]}, "do not belong together"),
        (OWNER.jwk() | {"d": [OWNER.jwk()["d"]]}, "d"),
    ],
)
def test_what_is_no_private_key_is_said_without_it(value: object, said: str) -> None:
    with pytest.raises(FileError) as refused:
        private_key_of(json.dumps(value), file="k")
    assert said in str(refused.value)
    assert OWNER.jwk()["d"] not in str(refused.value)


def test_a_folders_keys_are_all_trusted_and_its_other_files_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "a.public.jwk", OWNER.public.jwk())
    write(tmp_path / "b.jwks", {"keys": [STRANGER.public.jwk()]})
    write(tmp_path / "same.json", OWNER.public.jwk())
    write(tmp_path / "README", "these are keys")
    assert read_keys(tmp_path) == {"owner": OWNER.public, "stranger": STRANGER.public}


def test_two_keys_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.jwk", OWNER.public.jwk())
    write(tmp_path / "b.jwk", STRANGER.public.jwk() | {"kid": "owner"})
    with pytest.raises(FileError, match=r"b\.jwk: the key 'owner' differs from that of the same name in .*a\.jwk"):
        read_keys(tmp_path)


def test_a_ring_without_keys_trusts_nobody(tmp_path: Path) -> None:
    assert KeyRing(None).keys() == {}
    assert KeyRing(tmp_path).keys() == {}
    assert KeyRing(None).access(required=True).where is None


def test_a_bad_file_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        KeyRing(tmp_path / "none.jwk")
    with pytest.raises(FileError, match="not a JSON Web Key"):
        KeyRing(write(tmp_path / "k.jwk", "?"))


def test_keys_come_and_go_with_their_files(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    assert ring.access(required=False).where == str(tmp_path)
    owners = write(tmp_path / "a.jwk", OWNER.public.jwk())
    assert ring.keys() == {"owner": OWNER.public}
    strangers = write(tmp_path / "b.jwk", STRANGER.public.jwk())
    assert set(ring.keys()) == {"owner", "stranger"}
    owners.unlink()
    assert set(ring.access(required=False).keys) == {"stranger"}
    strangers.unlink()
    assert ring.keys() == {}


def test_what_did_not_change_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jwk", OWNER.public.jwk())
    ring = KeyRing(tmp_path)

    def unread(file: Path) -> str:
        raise AssertionError(f"{file} was read")

    monkeypatch.setattr("shardbus_placer.access.key_ring.read_text", unread)
    assert ring.keys() == ring.keys() == {"owner": OWNER.public}


def test_while_the_files_cannot_be_used_no_key_is_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key that was taken away must not live on because of a mistake in another file."""
    caplog.set_level(logging.INFO)
    write(tmp_path / "a.jwk", OWNER.public.jwk())
    ring = KeyRing(tmp_path)
    bad = write(tmp_path / "b.jwk", OWNER.jwk())
    assert ring.keys() == {}
    assert f"{bad}: this is a private key" in caplog.text
    assert OWNER.jwk()["d"] not in caplog.text
    caplog.clear()
    assert ring.keys() == {}
    assert caplog.text == ""  # said once, not with each command
    bad.unlink()
    assert ring.keys() == {"owner": OWNER.public}


def test_a_file_that_is_replaced_by_one_of_the_same_length_and_time_is_noticed(tmp_path: Path) -> None:
    file = write(tmp_path / "k.jwk", OWNER.public.jwk())
    ring = KeyRing(file)
    other = write(tmp_path / "new", OWNER.public.jwk() | {"x": STRANGER.public.jwk()["x"]})
    times = file.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(file)
    assert file.stat().st_size == times.st_size
    assert ring.keys()["owner"].x == STRANGER.public.x


def test_a_file_that_is_gone_is_a_key_that_is_gone(tmp_path: Path) -> None:
    file = write(tmp_path / "k.jwk", OWNER.public.jwk())
    ring = KeyRing(file)
    file.unlink()
    assert ring.keys() == {}
    write(file, OWNER.public.jwk())
    assert ring.keys() == {"owner": OWNER.public}
