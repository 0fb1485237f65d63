"""Errors of globus-sdk -> errors of cep, with the exit codes of the published endpoint."""

from __future__ import annotations

import globus_sdk

from cep.errors import CepError, DataError, NotAllowed, TemporaryFailure, Unavailable

#: First words of a refused registration, as published; scripts look for them on stdout.
BLOCKED = "Endpoint registration blocked."

_BODY_LIMIT = 2000  # characters of an answer that are worth showing


def convert(exc: globus_sdk.GlobusError, doing: str, url: str) -> CepError:
    """Return the error to raise in place of the library's.

    Args:
        exc: What globus-sdk raised.
        doing: What was tried, to follow "while ", e.g. `registering the endpoint`.
        url: The service's address.

    Source: 404, 409 and 423 are 69, 400 and 422 are 65, a network failure is 75 and an answer
    of Globus Auth 77 in globus-compute-endpoint 2.19 and 4.19.
    """
    if isinstance(exc, globus_sdk.NetworkError):
        cause = getattr(exc, "underlying_exception", None)
        return TemporaryFailure(
            f"The service {url} does not answer while {doing} "
            f"({type(cause).__name__ if cause is not None else exc}).",
            hint="Try again later; for a hub, look whether it runs: cep hub status",
        )
    if isinstance(exc, globus_sdk.AuthAPIError) and exc.http_status < 500:
        return NotAllowed(
            f"The login was refused while {doing} (status {exc.http_status}: {reason(exc)}).",
            hint="Check the client's id and secret, or run: cep login --force",
        )
    if isinstance(exc, globus_sdk.GlobusAPIError):
        return _of_status(exc, doing, url)
    if isinstance(exc, globus_sdk.token_storage.TokenValidationError):
        return NotAllowed(
            f"The stored login cannot be used while {doing}: {exc}", hint="run: cep login --force"
        )
    return TemporaryFailure(f"The service {url} could not be used while {doing}: {exc}")


def registration_blocked(exc: globus_sdk.GlobusAPIError, url: str) -> CepError:
    """Return the error of a refused registration: the published line, then the reason."""
    error = _of_status(exc, "registering the endpoint", url)
    if isinstance(error, TemporaryFailure):
        return error
    return type(error)(f"{BLOCKED}  [{_text(exc)}]", hint=error.message)


def reason(exc: globus_sdk.GlobusAPIError) -> str:
    """The service's own words for its refusal, short."""
    words = exc.message or exc.code or exc.http_reason or "no reason given"
    return words.strip().rstrip(".")[:300]


def _of_status(exc: globus_sdk.GlobusAPIError, doing: str, url: str) -> CepError:
    status = exc.http_status
    sentence = f"The service {url} refused while {doing} (status {status}: {reason(exc)})."
    if status in (401, 403):
        return NotAllowed(sentence, hint="Look who you are with: cep whoami")
    if status in (400, 422):
        return DataError(sentence)
    if status == 429 or status >= 500:
        return TemporaryFailure(sentence, hint="Try again later.")
    return Unavailable(sentence)


def _text(exc: globus_sdk.GlobusAPIError) -> str:
    return " ".join(exc.text.split())[:_BODY_LIMIT]
