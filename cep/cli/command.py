"""What all commands share: options before and after the subcommand, errors, refused options.

`-c/--config-dir`, `--debug`, `--log-to-console`, `--no-color` and `-h` are taken on either side
of the subcommand, as the published endpoint takes them on one side or the other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from cep import paths
from cep.errors import CepError, UsageError
from cep.safety.text import printable, redact

HELP_OPTIONS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
#: First words of a refused registration; scripts look for the line on standard output.
_REGISTRATION_BLOCKED = "Endpoint registration blocked."

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(slots=True)
class Shared:
    """What one run of the program knows, whichever command it is.

    Attributes:
        program: The name the program was called by.
        config_dir: The value of `-c/--config-dir`.
        debug: Log more, show tracebacks.
        log_to_console: The agent logs to standard error as well.
        no_color: No colours.
    """

    program: str = "cep"
    config_dir: str | None = None
    debug: bool = False
    log_to_console: bool = False
    no_color: bool = False

    @property
    def base(self) -> Path:
        """The user directory, which holds all endpoints of this account."""
        return paths.user_dir(self.config_dir)

    @property
    def base_is_chosen(self) -> bool:
        """Whether an option or a variable names the user directory."""
        return self.config_dir is not None or paths.USER_DIR_VARIABLE in os.environ

    def tell(self, error: CepError) -> int:
        """Print an error, sentence and hint; return its exit code."""
        if error.message.startswith(_REGISTRATION_BLOCKED):
            click.echo(_safe(error.message))
            sentence = error.hint
        else:
            sentence = str(error)
        if sentence:
            click.echo(_safe(f"{self.program}: {sentence}"), err=True)
        if self.debug:
            self._traceback(error)
        return error.exit_code

    def tell_unexpected(self, error: Exception) -> int:
        """Print an error that is no error of ours; return the exit code of a fault in here."""
        click.echo(
            _safe(f"{self.program}: unexpected {type(error).__name__}: {error}")
            + "\nThis is a fault in cep; --debug shows where.",
            err=True,
        )
        if self.debug:
            self._traceback(error)
        return 70

    @staticmethod
    def _traceback(error: Exception) -> None:
        import traceback

        click.echo(_safe("".join(traceback.format_exception(error))), err=True, nl=False)


def _safe(text: str) -> str:
    """The words of a service or a file, without secrets or what a terminal would obey."""
    return printable(redact(text), keep="\n\t")


def shared(ctx: click.Context) -> Shared:
    """The run's shared values."""
    found = ctx.find_object(Shared)
    assert found is not None
    return found


def set_up_logging(values: Shared) -> None:
    """Show our warnings (with --debug, everything of ours) on standard error."""
    import logging

    from cep.safety.logs import SafeFormatter

    logger = logging.getLogger("cep")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(SafeFormatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if values.debug else logging.WARNING)


def interactive() -> bool:
    """Whether a person can be asked: standard input is a terminal."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def _keep_directory(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        shared(ctx).config_dir = value
        # Child processes and the token store find the same place.
        os.environ[paths.USER_DIR_VARIABLE] = str(paths.user_dir(value))


def _keep_flag(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def keep(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            setattr(shared(ctx), name, True)

    return keep


def _shared_options() -> list[click.Option]:
    return [
        click.Option(
            ["-c", "--config-dir"],
            metavar="DIR",
            expose_value=False,
            callback=_keep_directory,
            is_eager=True,
            help="Directory of all endpoints (default ~/.globus_compute).",
        ),
        _flag("--debug", "Log more, and show where an error comes from."),
        _flag("--log-to-console", "Log to standard error as well as to the file."),
        _flag("--no-color", "No colours."),
    ]


def _flag(option: str, text: str) -> click.Option:
    """A shared flag; its field has the option's name."""
    return click.Option(
        [option],
        is_flag=True,
        expose_value=False,
        callback=_keep_flag(option.removeprefix("--").replace("-", "_")),
        is_eager=True,
        help=text,
    )


class CepGroup(click.Group):
    """A group of commands with the shared options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_shared_options())


class CepCommand(click.Command):
    """A command with the shared options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", HELP_OPTIONS)
        super().__init__(*args, **kwargs)
        self.params.extend(_shared_options())


class RefusedOption(click.Option):
    """An option of a published endpoint that is refused by name, with what to use instead.

    Args:
        advice: What to use instead, as a sentence.
        harmless: Values that ask for nothing, which are let through.
    """

    def __init__(
        self, *args: Any, advice: str, harmless: tuple[str, ...] = (), **kwargs: Any
    ) -> None:
        # With or without a value: the published versions differ, and it is refused anyway.
        kwargs.update(is_flag=False, flag_value="", hidden=True, expose_value=False)
        super().__init__(*args, callback=self._refuse, **kwargs)
        self.advice = advice
        self.harmless = harmless

    def _refuse(self, _ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value is not None and str(value).lower() not in self.harmless:
            raise UsageError(
                f"The option {self.opts[0]} of the published endpoint is not taken here.",
                hint=self.advice,
            )


def refuse(option: str, advice: str, *, harmless: tuple[str, ...] = ()) -> Callable[[_F], _F]:
    """Decorate a command: refuse a published option by name.

    Args:
        option: E.g. `--core-config`.
        advice: What to use instead, as a sentence.
        harmless: Values that ask for nothing, e.g. `false`.
    """
    return click.option(option, cls=RefusedOption, advice=advice, harmless=harmless)
