"""What is shown or logged: nothing that a terminal obeys, no secret, no forged record."""

from __future__ import annotations

import logging

import pytest

from cep.cli import listing, status
from cep.safety import text as text_module
from cep.safety.logs import SafeFormatter
from cep.safety.text import printable, redact_script


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 日本", "plain äöü 日本"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\x9b31mb", "a\\x9b31mb"),
        ("a\rb\nc\td\x00", "a\\x0db\\x0ac\\x09d\\x00"),
        ("right\u202etfel", "right\\u202etfel"),
        ("line\u2028break", "line\\u2028break"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("half\ud800", "half\\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_made_visible(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_chosen_characters_are_let_through() -> None:
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def formatted(message: str, error: BaseException | None = None) -> str:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.INFO, "f", 1, "%s", (message,), info)
    return SafeFormatter("%(levelname)s %(message)s").format(record)


def test_a_name_cannot_forge_a_record_of_the_log() -> None:
    lines = formatted("client x\nINFO all is well").splitlines()
    assert [line.startswith("INFO") for line in lines] == [True, False]


def test_a_traceback_shows_neither_secrets_nor_escape_sequences() -> None:
    try:
        raise ValueError("amqp://me:hunter2@broker/ \x1b]0;owned\x07 client_secret=hunter2")
    except ValueError as error:
        text = formatted("it broke", error)
    assert "hunter2" not in text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "ValueError: amqp://me:***@broker/" in text


def test_a_secret_without_a_form_is_hidden_once_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_module, "_known", [])
    text_module.hide("kept-by-nobody", "short")
    assert formatted("answer: 'kept-by-nobody' in short") == "INFO answer: '***' in short"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("export MY_TOKEN='a b'", "export MY_TOKEN=***"),
        ('API_KEY="a \\" b" next', "API_KEY=*** next"),
        ("tool --auth abc --name x", "tool --auth *** --name x"),
        ("curl https://me:pw@host/", "curl https://me:***@host/"),
        ("curl -H 'Authorization: Bearer abcdefgh'", "curl -H 'Authorization: *** ***'"),
        ("told-to-hide", "***"),
        ("credentials: /a/b", "credentials: ***"),
        ("authentication_policy: 1f0e9a52", "authentication_policy: 1f0e9a52"),
    ],
)
def test_a_script_is_shown_without_what_it_gives_to_secret_names(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "_known", ["told-to-hide"])
    assert redact_script(text) == shown


def test_status_and_list_show_hostile_names_harmlessly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "n\x1b[2Jame"
    picture = {
        **dict.fromkeys(("id", "host", "pid", "agent", "service")),
        "name": hostile,
        "status": "Stopped",
        "directory": f"/home/{hostile}",
        "paused": False,
    }
    monkeypatch.setattr(status, "describe", lambda _found: picture)
    monkeypatch.setattr(status.naming, "find", lambda *_: None)
    status.status.main(["x"], standalone_mode=False, obj=status.Shared())
    monkeypatch.setattr(listing, "describe", lambda _root: picture)
    monkeypatch.setattr(listing.naming, "roots", lambda _base: [None])
    listing.list_endpoints.main([], standalone_mode=False, obj=listing.Shared())
    out = capsys.readouterr().out
    assert out.count("n\\x1b[2Jame") >= 3
    assert "\x1b" not in out
