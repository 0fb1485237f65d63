"""The first login, on a terminal: the link, the code, and then no question ever again."""

from __future__ import annotations

import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from cep.service.auth import CLIENT_ID
from tests.unit.cli_rig import FOREIGN
from tests.unit.service_stand_in import Request, StandIn, serving

IDENTITY = "0c0c0c0c-0000-4000-8000-000000000003"
CODE = "the-code-of-the-page"


@pytest.fixture
def service() -> Iterator[StandIn]:
    """A login service that gives tokens with refresh tokens and a signed identity for a code."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))

    with serving() as stand_in:
        stand_in.answers["GET", "/.well-known/openid-configuration"] = (
            200,
            {
                "issuer": "https://auth.globus.org",
                "jwks_uri": f"{stand_in.url}/jwk.json",
                "id_token_signing_alg_values_supported": ["RS512"],
            },
        )
        stand_in.answers["GET", "/jwk.json"] = (200, {"keys": [{**public, "alg": "RS512"}]})
        plain = stand_in.respond

        def respond(request: Request) -> tuple[int, Any]:
            if request.path != "/v2/oauth2/token" or f"code={CODE}" not in request.body:
                return plain(request)
            claims = {"sub": IDENTITY, "aud": CLIENT_ID, "exp": int(time.time()) + 3600}
            tokens = [
                {
                    "access_token": f"access-{server}",
                    "refresh_token": f"refresh-{server}",
                    "resource_server": server,
                    "scope": scope,
                    "token_type": "Bearer",
                    "expires_in": 3600,
                }
                for server, scope in (
                    (
                        "funcx_service",
                        "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all",
                    ),
                    (
                        "auth.globus.org",
                        "openid urn:globus:auth:scope:auth.globus.org:manage_projects",
                    ),
                )
            ]
            id_token = jwt.encode(claims, key, algorithm="RS512")
            return 200, {**tokens[0], "other_tokens": tokens[1:], "id_token": id_token}

        stand_in.respond = respond  # type: ignore[method-assign]
        yield stand_in


def on_a_terminal(words: list[str], environment: dict[str, str], answer: str) -> tuple[int, str]:
    """Run the program with a terminal as its standard input; answer the question for the code.

    Returns:
        Exit code and everything the terminal showed.
    """
    terminal, other_side = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "cep", *words],
        env=environment,
        stdin=other_side,
        stdout=other_side,
        stderr=other_side,
        start_new_session=True,
    ) as program:
        os.close(other_side)
        shown, answered = b"", False
        with suppress(OSError):  # reading fails when the program has ended
            while piece := os.read(terminal, 4096):
                shown += piece
                if b"given there: " in shown and not answered:
                    answered = True
                    os.write(terminal, answer.encode() + b"\n")
        os.close(terminal)
    return program.returncode, shown.decode()


@pytest.fixture
def environment(service: StandIn, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return {
        **kept,
        "GLOBUS_COMPUTE_USER_DIR": str(tmp_path / "base"),
        "GLOBUS_SDK_SERVICE_URL_AUTH": service.url + "/",
    }


def test_a_login_on_a_terminal_shows_the_link_takes_the_code_and_is_kept(
    service: StandIn, environment: dict[str, str], tmp_path: Path
) -> None:
    code, shown = on_a_terminal(["login"], environment, CODE)
    assert code == 0, shown
    link = re.search(r"http\S+/v2/oauth2/authorize\S+", shown)
    assert link is not None
    assert f"client_id={CLIENT_ID}" in link[0]
    assert "access_type=offline" in link[0]
    for part in ("facd7ccc-c5f4-42aa-916b-a0e270e2c2a9%2Fall", "openid", "manage_projects"):
        assert part in link[0]
    with closing(sqlite3.connect(tmp_path / "base" / "storage.db")) as database:
        rows = database.execute("SELECT namespace, resource_server FROM token_storage").fetchall()
    assert sorted(rows) == [
        ("user/production", "auth.globus.org"),
        ("user/production", "funcx_service"),
    ]
    assert "already" in on_a_terminal(["login"], environment, "unasked")[1]
    assert len(service.asked("/v2/oauth2/token")) == 1


def test_the_first_start_on_a_terminal_asks_for_the_code(
    service: StandIn, environment: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "base" / "ep"
    root.mkdir(parents=True)
    (root / "config.yaml").write_text("engine: {type: ThreadPoolEngine}\n")
    code, shown = on_a_terminal(["start", "ep"], environment, "")
    assert code == 77
    assert "/v2/oauth2/authorize" in shown
    assert "No code was entered" in shown
    assert service.asked("/v2/oauth2/token") == []
    assert not (root / "endpoint.json").exists()


def test_a_wrong_code_is_77(environment: dict[str, str]) -> None:
    code, shown = on_a_terminal(["login"], environment, "wrong")
    assert code == 77
    assert "refused" in shown
