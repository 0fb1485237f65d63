"""Logins: globus-sdk's GlobusApp with the published endpoint's client, scopes and token store.

An existing login of the published endpoint or SDK is used as it is, and one made here serves
them too. Client identities from the environment win over a stored login. Runs in the caller's
thread; a `GlobusApp` must not be shared between threads.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import globus_sdk
from globus_sdk.config import EnvConfig
from globus_sdk.gare import GlobusAuthorizationParameters
from globus_sdk.login_flows import CommandLineLoginFlowManager
from globus_sdk.scopes import AuthScopes, ComputeScopes
from globus_sdk.token_storage import SQLiteTokenStorage, TokenStorageData
from globus_sdk.transport import RetryConfig

from cep import paths
from cep.errors import CantCreate, ConfigError, DataError, NotAllowed
from cep.model import PRODUCTION
from cep.safety.files import (
    PRIVATE_FILE,
    check_trusted,
    check_writers,
    link_exclusively,
    make_parents,
)
from cep.service import refusal
from cep.service.address import ServiceAddress
from cep.service.identity import (
    CLIENT_ID_VARIABLE,
    CLIENT_SECRET_VARIABLE,
    ClientIdentity,
    client_identity,
)
from cep.service.transport import Transport

#: The native client of the published endpoint and SDK (globus-compute-sdk 2.19 and 4.19), so
#: that one login and one consent serve both.
CLIENT_ID = "4cf29807-cf21-49ec-9443-ff9a3fb9f81c"
SCOPE_VARIABLE = "GLOBUS_COMPUTE_SCOPE"
MAX_RETRIES = 3
MAX_WAIT_S = 5


def retry_config() -> RetryConfig:
    """How often and how long calls are tried again: a few seconds, since a person may wait."""
    return RetryConfig(max_retries=MAX_RETRIES, max_sleep=MAX_WAIT_S)


def scopes() -> dict[str, list[Any]]:
    """Return what a login asks for, by resource server.

    The same as the published endpoint: the Compute service (whose consent includes Globus
    Groups), and one's identity. Asking for less would make the published one log in again.
    """
    wanted = os.environ.get(SCOPE_VARIABLE)
    return {
        ComputeScopes.resource_server: [wanted or ComputeScopes.all],
        AuthScopes.resource_server: [AuthScopes.openid, AuthScopes.manage_projects],
    }


def store_namespace(address: ServiceAddress, identity: ClientIdentity | None) -> str:
    """Return the part of the token store for this service and identity, as published."""
    if identity is not None:
        return f"clientprofile/{address.environment}/{identity.client_id}"
    return f"user/{address.environment}"


class Login:
    """A GlobusApp and its token store, bound to one service. Close it when done.

    Args:
        address: The service.
        base: The user directory, which holds `storage.db`; None for the account's own.
        interactive: A person may be asked for a code on the terminal.
        identity: A client identity; without one, that of the environment.
    """

    def __init__(
        self,
        address: ServiceAddress,
        *,
        base: Path | None = None,
        interactive: bool = False,
        identity: ClientIdentity | None = None,
    ) -> None:
        self.address = address
        self.interactive = interactive
        self.identity = identity or client_identity()
        self._transport = Transport(address.ca_file)
        self._store = _open_store(base or paths.user_dir(), store_namespace(address, self.identity))
        try:
            self._stored()  # a damaged store is told as one before anything builds on it
            self.app = self._build_app()
        except ValueError as exc:  # e.g. GLOBUS_SDK_HTTP_TIMEOUT is no number
            self._store.close()
            raise ConfigError(f"A GLOBUS_SDK_ variable of the shell is wrong: {exc}.") from exc
        except BaseException:
            self._store.close()
            raise

    def _build_app(self) -> globus_sdk.GlobusApp:
        config = globus_sdk.GlobusAppConfig(
            token_storage=self._store,
            request_refresh_tokens=True,
            environment=_sdk_environment(self.address),
            login_flow_manager=None if self.identity else _Terminal,
            # Without a person nobody could answer, and a daemon must not wait for input.
            token_validation_error_handler=None,
            auto_redrive_gares=self.interactive and self.identity is None,
        )
        self._client = self._login_client(config.environment)
        if isinstance(self._client, globus_sdk.ConfidentialAppAuthClient):
            return globus_sdk.ClientApp(
                platform.node(),
                login_client=self._client,
                scope_requirements=scopes(),
                config=config,
            )
        return globus_sdk.UserApp(
            platform.node(), login_client=self._client, scope_requirements=scopes(), config=config
        )

    def _login_client(self, environment: str) -> globus_sdk.AuthLoginClient:
        if self.identity is None:
            return globus_sdk.NativeAppAuthClient(
                CLIENT_ID,
                environment=environment,
                retry_config=retry_config(),
                transport=self._transport,
            )
        return globus_sdk.ConfidentialAppAuthClient(
            self.identity.client_id,
            self.identity.secret,
            environment=environment,
            retry_config=retry_config(),
            transport=self._transport,
        )

    def __enter__(self) -> Login:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the token store and the connections. Idempotent."""
        self.app.close()
        self._client.close()
        self._transport.close()
        self._store.close()

    def needed(self) -> bool:
        """Whether a login is needed before the service can be used. Asks nobody."""
        if self.identity is not None:
            # GlobusApp would fetch a token for each server just to answer; expired ones renew
            # themselves, so what counts is whether there are any.
            stored = self._stored()
            return any(server not in stored for server in scopes())
        return self.app.login_required()

    def _stored(self) -> dict[str, TokenStorageData]:
        try:
            return self._store.get_token_data_by_resource_server()
        except (sqlite3.Error, ValueError, TypeError, AttributeError) as exc:
            raise DataError(
                f"The token store {self._store.filepath} cannot be read: {exc}.",
                hint="Move it away and log in again: cep login",
            ) from exc

    def ensure(self, *, force: bool = False) -> bool:
        """Log in when needed; returns whether a login took place.

        Client identities log in by themselves; a person is asked on the terminal.

        Raises:
            NotAllowed: There is no login and nobody to ask, or it was refused.
            TemporaryFailure: Globus Auth or the hub does not answer.
        """
        if not force and not self.needed():
            return False
        if self.identity is None:
            self._must_be_possible()
        try:
            self.app.login(force=True)
        except EOFError as exc:
            raise NotAllowed("No code was entered; the login did not take place.") from exc
        except globus_sdk.GlobusError as exc:
            raise refusal.convert(exc, "logging in", self.auth_url) from exc
        return True

    @property
    def transport(self) -> Transport:
        """How requests to this service travel; closed with the login."""
        return self._transport

    @property
    def auth_url(self) -> str:
        """Address of the service that hands out tokens."""
        return globus_sdk.config.get_service_url("auth", _sdk_environment(self.address))

    def _must_be_possible(self) -> None:
        if not self.address.hosted:
            raise NotAllowed(
                f"The hub {self.address.url} knows clients only, and {CLIENT_ID_VARIABLE} and "
                f"{CLIENT_SECRET_VARIABLE} are not set.",
                hint='Set them, e.g. on the hub\'s host: eval "$(cep hub env)"',
            )
        if not self.interactive:
            raise NotAllowed(
                f"There is no login for {self.address.url}, and no terminal to ask on.",
                hint="run: cep login",
            )

    def logout(self) -> bool:
        """Revoke and forget the stored tokens; returns whether there were any.

        Raises:
            TemporaryFailure: The tokens could not be revoked; they are still stored.
        """
        stored = bool(self._stored())
        try:
            self.app.logout(sweep=True)
        except globus_sdk.GlobusError as exc:
            raise refusal.convert(exc, "logging out", self.auth_url) from exc
        return stored

    def whoami(self, *, linked: bool = False) -> list[dict[str, str]]:
        """Return the identities of this login: username, name, id, email.

        Args:
            linked: All linked identities, not only the primary one.

        Raises:
            NotAllowed: Not logged in, or the login is not good any more.
            TemporaryFailure: Globus Auth or the hub does not answer.
        """
        if self.identity is not None:
            self.ensure()
        elif self.needed():
            raise NotAllowed("You are not logged in.", hint="run: cep login")
        client = _Identities(app=self.app, transport=self._transport)
        try:
            about = client.userinfo()
            ids = [str(about["sub"])]
            if linked:
                ids = [str(entry["sub"]) for entry in about["identity_set"]]
            found = {str(i["id"]): i for i in client.get_identities(ids=ids)["identities"]}
        except globus_sdk.GlobusError as exc:
            raise refusal.convert(exc, "asking who you are", self.auth_url) from exc
        except (KeyError, TypeError) as exc:
            raise DataError(
                f"{self.auth_url} gave an answer that does not say who you are ({exc!r})."
            ) from exc
        return [
            {
                "username": str(found.get(i, {}).get("username") or ""),
                "name": str(found.get(i, {}).get("name") or ""),
                "id": i,
                "email": str(found.get(i, {}).get("email") or ""),
            }
            for i in ids
        ]


class _Identities(globus_sdk.AuthClient):
    """The part of Globus Auth that says who one is, with the scopes of `scopes()`."""

    default_scope_requirements = [AuthScopes.openid, AuthScopes.manage_projects]  # noqa: RUF012


class _Terminal(CommandLineLoginFlowManager):
    """Asks for the code on standard error, so that standard output keeps its promised lines."""

    def print_authorize_url(self, authorize_url: str) -> None:
        """Show the link."""
        print(
            f"\nLog in to Globus with this link:\n\n{authorize_url}\n", file=sys.stderr, flush=True
        )

    def prompt_for_code(self) -> str:
        """Ask for the code that the link's page shows."""
        print("Enter the code that you are given there: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            raise EOFError
        return line.strip()

    def run_login_flow(
        self, auth_parameters: GlobusAuthorizationParameters
    ) -> globus_sdk.OAuthTokenResponse:
        """Link, code, tokens."""
        return super().run_login_flow(auth_parameters)


def _sdk_environment(address: ServiceAddress) -> str:
    """Return the environment name under which globus-sdk finds the login service.

    A hub is its own login service; its address is made known to globus-sdk here, so that no
    shell variable is needed. GLOBUS_SDK_SERVICE_URL_AUTH still wins over it.
    """
    if address.hosted:
        # The library knows no login service for the funcx development environment.
        known = EnvConfig.get_by_name(address.environment) is not None
        return address.environment if known else PRODUCTION
    known_hub = EnvConfig.get_by_name(address.environment)
    if known_hub is None or getattr(known_hub, "auth_url", None) != address.url + "/":
        make: Callable[..., Any] = type
        make(
            "HubEnvConfig",
            (EnvConfig,),
            {
                "envname": address.environment,
                "domain": address.environment,
                "auth_url": address.url + "/",
                "compute_url": address.url + "/",
            },
        )
    return address.environment


def _open_store(base: Path, namespace: str) -> SQLiteTokenStorage:
    file = base / "storage.db"
    try:
        make_parents(file)
        _check_store(file)
        if not file.exists():
            _make_store(file)
        return SQLiteTokenStorage(
            file,
            namespace=namespace,
            # The agent opens it in one thread and uses it in another, never in two at once.
            connect_params={"check_same_thread": False},
        )
    except (OSError, sqlite3.Error) as exc:
        raise CantCreate(f"The token store in {base} cannot be opened: {exc}.") from exc


def _make_store(file: Path) -> None:
    """Make an empty token store and put it in its place whole, unless one has come meanwhile.

    globus-sdk makes the file first and the tables after it: who opens it between the two finds
    none, and so does everybody after an interruption there.
    """
    import tempfile

    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as aside:
        made = Path(aside) / file.name
        SQLiteTokenStorage(made).close()
        with suppress(FileExistsError):
            link_exclusively(made, file)


def _check_store(file: Path) -> None:
    """Refuse a token store that others could have put there; keep them from reading it.

    Raises:
        NotAllowed: It belongs to somebody else, or others can write it or its directory.
    """
    check_writers(file.parent, sticky_is_fine=True)
    check_trusted(file, NotAllowed, "The token store")
    if file.exists() and file.stat().st_mode & 0o077:
        file.chmod(PRIVATE_FILE)
