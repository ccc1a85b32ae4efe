"""JWTs: an issuer's keys from a file and from a URL, and everything that must not be believed."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from canary.admin.v1 import admin_pb2 as admin_pb
from canary.admin.v1 import admin_pb2_grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from decision_svc.access import jwt as service_jwt
from decision_svc.app import Running
from support.access import Tokens, bearer
from support.calls import LIMIT_S, until
from support.service import running_service

ISSUER, AUDIENCE = "https://login.example/", "canary"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def jwks(**keys: Any) -> str:
    """The public halves of the keys, by their ids."""
    found = []
    for id_, key in keys.items():
        kind = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        algorithm: Any = jwt.get_algorithm_by_name(kind)
        public = json.loads(algorithm.to_jwk(key.public_key()))
        found.append(public | {"kid": id_, "use": "sig", "alg": kind})
    return json.dumps({"keys": found})


def token(key: Any = RSA, *, alg: str = "RS256", kid: str | None = "a", **claims: Any) -> str:
    standard = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        # Some are made when the tests are collected, and must not be refused for their age.
        "exp": int(time.time()) + 86_400,
        "sub": "alice",
        "groups": ["team", "ops"],
    }
    said = {k: v for k, v in (standard | claims).items() if v is not None}
    return jwt.encode(said, key, algorithm=alg, headers={} if kid is None else {"kid": kid})


def forged(header: dict[str, Any], signature: bytes = b"") -> str:
    """A JWT with this header, and otherwise as it should be."""
    payload = token().split(".")[1]
    parts = [json.dumps(header).encode(), None, signature]
    written = [
        payload if part is None else base64.urlsafe_b64encode(part).rstrip(b"=").decode()
        for part in parts
    ]
    return ".".join(written)


class Issuer(ThreadingHTTPServer):
    """Serves a JWKS that tests may change."""

    jwks = jwks(a=RSA)
    asked = 0


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked += 1
            body = server.jwks.encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with Issuer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def rules(**more: Any) -> dict[str, Any]:
    roles = {"ops": {"*": "viewer", "shop": "operator"}, "team": {"shop": "viewer"}}
    return {"issuer": ISSUER, "audience": AUDIENCE, "roles": roles, **more}


def url_of(issuer: Issuer) -> str:
    return f"http://127.0.0.1:{issuer.server_address[1]}/keys"


def with_file(tmp_path: Path, **more: Any) -> str:
    (tmp_path / "keys.json").write_text(jwks(a=RSA, b=EC))
    return Tokens(tmp_path / "access.yml").write(jwt=rules(jwks_file="keys.json", **more))


async def who(running: Running, shown: str) -> tuple[str, dict[str, str]] | str:
    async with grpc.aio.insecure_channel(running.admin_address) as channel:
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        try:
            found = await stub.WhoAmI(
                admin_pb.WhoAmIRequest(), metadata=bearer(shown), timeout=LIMIT_S
            )
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return found.name, dict(found.roles)


ALICE = ("alice", {"*": "viewer", "shop": "operator"})


async def test_a_jwt_is_believed_by_the_keys_of_a_file(tmp_path: Path) -> None:
    async with running_service(access_file=with_file(tmp_path)) as running:
        assert await who(running, token()) == ALICE
        assert await who(running, token(EC, alg="ES256", kid="b")) == ALICE


async def test_names_and_roles_come_from_the_claims_that_the_file_names(tmp_path: Path) -> None:
    path = with_file(tmp_path, name_claim="email", roles_claim="realm.roles")
    shown = token(email="a@example.org", realm={"roles": "team"})
    async with running_service(access_file=path) as running:
        assert await who(running, shown) == ("a@example.org", {"shop": "viewer"})


async def test_a_jwt_without_a_role_may_nothing(tmp_path: Path) -> None:
    async with running_service(access_file=with_file(tmp_path)) as running:
        for groups in (["others"], None, 5, [1], {"ops": 1}):
            assert str(await who(running, token(groups=groups))).startswith("PERMISSION_DENIED")


def hostile() -> Iterator[tuple[str, str]]:
    now = int(time.time())
    public = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    yield "alg none", forged({"alg": "none", "kid": "a"})
    yield "alg None", forged({"alg": "None", "kid": "a"})
    yield "no alg", forged({"kid": "a"})
    yield "alg of another kind", forged({"alg": ["RS256"], "kid": "a"})
    yield "no signature", forged({"alg": "RS256", "kid": "a"})
    yield "a shared key", forged({"alg": "HS256", "kid": "a"}, _hs256(public))
    yield "an algorithm that is not accepted", token(alg="PS256")
    yield "another algorithm than the key's", token(EC, alg="ES256", kid="a")
    yield "another key", token(OTHER_RSA)
    yield "a key that nobody published", token(OTHER_RSA, kid="z")
    yield "no key named of two", token(kid=None)
    yield "a key id of another kind", forged({"alg": "RS256", "kid": {"a": 1}})
    yield "a critical extension", forged({"alg": "RS256", "kid": "a", "crit": ["x"]})
    yield "expired", token(exp=now - 3600)
    yield "never expires", token(exp=None)
    yield "not yet", token(nbf=now + 43_200)
    yield "expires at the end of time", token(exp=1e300)
    yield "expires as text", token(exp="soon")
    yield "another audience", token(aud="other")
    yield "no audience", token(aud=None)
    yield "another issuer", token(iss="https://evil.example/")
    yield "no issuer", token(iss=None)
    yield "nobody", token(sub=None)
    yield "an empty name", token(sub="")
    yield "a name with a line break", token(sub="a\nb")
    yield "no JWT", "a.b.c"
    yield "a very long one", token(sub="x" * 4_000)


def _hs256(public: bytes) -> bytes:
    import hashlib
    import hmac

    return hmac.new(public, b"whatever", hashlib.sha256).digest()


HOSTILE = dict(hostile())


@pytest.mark.parametrize("why", HOSTILE)
async def test_what_is_not_to_be_believed_is_not(why: str, tmp_path: Path) -> None:
    async with running_service(access_file=with_file(tmp_path)) as running:
        said = await who(running, HOSTILE[why])
    assert str(said).startswith("UNAUTHENTICATED"), said
    assert HOSTILE[why] not in str(said)


async def test_keys_come_from_a_url_and_a_new_one_is_found_at_once(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_jwt, "FETCH_PAUSE_S", 0.0)
    path = Tokens(tmp_path / "access.yml").write(jwt=rules(jwks_url=url_of(issuer)))
    async with running_service(access_file=path) as running:
        assert await who(running, token()) == ALICE
        issuer.jwks = jwks(c=OTHER_RSA)
        assert await who(running, token(OTHER_RSA, kid="c")) == ALICE
        # The old key is published no more.
        assert str(await who(running, token())).startswith("UNAUTHENTICATED")


async def test_unknown_keys_do_not_make_the_service_ask_the_issuer_over_and_over(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than a busy machine takes for this test.
    monkeypatch.setattr(service_jwt, "FETCH_PAUSE_S", 600.0)
    path = Tokens(tmp_path / "access.yml").write(jwt=rules(jwks_url=url_of(issuer)))
    async with running_service(access_file=path) as running:
        assert await who(running, token()) == ALICE
        shown = [token(OTHER_RSA, kid=f"k{number}") for number in range(20)]
        await asyncio.gather(*(who(running, one) for one in shown))
    assert issuer.asked == 1


async def test_while_the_issuer_is_gone_the_keys_last_seen_and_tokens_are_good(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_jwt, "FETCH_PAUSE_S", 0.0)
    file = Tokens(tmp_path / "access.yml")
    static = file.new("ci", {"*": "viewer"})
    path = file.write(jwt=rules(jwks_url=url_of(issuer)))
    issuer.jwks = "gone"
    async with running_service(access_file=path) as running:
        assert await who(running, static) == ("ci", {"*": "viewer"})
        assert str(await who(running, token())).startswith("UNAUTHENTICATED")
        issuer.jwks = jwks(a=RSA)
        assert await who(running, token()) == ALICE
        issuer.jwks = "gone again"
        assert str(await who(running, token(OTHER_RSA, kid="z"))).startswith("UNAUTHENTICATED")
        assert await who(running, token()) == ALICE


async def test_new_keys_in_the_file_are_read_without_a_restart(tmp_path: Path) -> None:
    async with running_service(access_file=with_file(tmp_path)) as running:
        (tmp_path / "keys.json").write_text(jwks(a=OTHER_RSA))

        async def is_believed() -> bool:
            return await who(running, token(OTHER_RSA)) == ALICE

        await until(is_believed)
        assert str(await who(running, token())).startswith("UNAUTHENTICATED")
