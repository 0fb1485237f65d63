"""The program `cep`, also called `globus-compute-endpoint`: the table of commands, and the exit.

Nothing heavy is imported here: a command's module is loaded when the command is named, and other
rooms inside its body. Messages for people go to standard error; standard output carries the lines
that scripts read.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from cep.cli.command import HELP_OPTIONS, CepGroup, Shared
from cep.errors import CepError, UsageError

#: Command -> where it is, and what it does in a few words.
COMMANDS: dict[str, tuple[str, str]] = {
    "configure": ("cep.cli.configure:configure", "Make an endpoint's configuration."),
    "import": ("cep.cli.import_:import_", "Take over an endpoint of an older version."),
    "profiles": ("cep.cli.profiles:profiles", "Show the kinds of sites and the known sites."),
    "render": ("cep.cli.render:render", "Show what would be submitted for an endpoint."),
    "validate": ("cep.cli.about:validate", "Check a configuration without starting anything."),
    "start": ("cep.cli.lifecycle:start", "Start an endpoint."),
    "stop": ("cep.cli.lifecycle:stop", "Stop an endpoint."),
    "restart": ("cep.cli.lifecycle:restart", "Stop an endpoint and start it again."),
    "pause": ("cep.cli.lifecycle:pause", "Take no new tasks; what was taken goes on."),
    "resume": ("cep.cli.lifecycle:resume", "Take tasks again."),
    "list": ("cep.cli.listing:list_endpoints", "List the endpoints of this account."),
    "status": ("cep.cli.status:status", "Show what an endpoint is doing."),
    "blocks": ("cep.cli.blocks:blocks", "List, pause or resume an endpoint's blocks."),
    "worker-sets": ("cep.cli.worker_sets:worker_sets", "Keep what is lent to other Pythons."),
    "logs": ("cep.cli.logs:logs", "Show an endpoint's log."),
    "delete": ("cep.cli.delete:delete", "Delete an endpoint, here and at the service."),
    "enable-on-boot": ("cep.cli.boot:enable_on_boot", "Start an endpoint when the host boots."),
    "disable-on-boot": ("cep.cli.boot_off:disable_on_boot", "No longer start it at boot."),
    "login": ("cep.cli.account:login", "Log in to the service."),
    "logout": ("cep.cli.account:logout", "Forget the login."),
    "whoami": ("cep.cli.account:whoami", "Show who is logged in."),
    "hub": ("cep.cli.hub:hub", "Run a web service of your own."),
    "demo": ("cep.cli.demo:demo", "Run functions through a hub and an endpoint, then clean up."),
    "version": ("cep.cli.about:version", "Show the version."),
}

#: Commands of published endpoints that are refused by name, with what to use instead.
REFUSED: dict[str, str] = {
    "render-user-config": "There are no per-user templates here; check a file with: validate FILE",
    "migrate-to-template-capable": (
        "The engine stays in config.yaml, where it is; there is nothing to migrate."
    ),
    "python-exec": "Run a module with the interpreter itself: python3 -m MODULE",
    "self-diagnostic": "Use `status NAME` and `logs NAME`.",
    "update_funcx_config": "A config.py is not run here; it is read by: import DIR --as NAME",
    "_start-user-endpoint": "There are no per-user endpoints here; use: start NAME",
}


class LazyGroup(CepGroup):
    """Finds commands in the tables above and loads them when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command's module; refuse published commands that are not ours, by name."""
        del ctx
        if cmd_name in REFUSED:
            raise UsageError(
                f"The command {cmd_name} of the published endpoint is not one of this program.",
                hint=REFUSED[cmd_name],
            )
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without loading any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings=HELP_OPTIONS, invoke_without_command=False)
def app() -> None:
    """A single-user compute endpoint, compatible with Globus Compute."""


def program_name(argv0: str | None = None) -> str:
    """The name this program was called by: `cep`, or `globus-compute-endpoint`."""
    name = os.path.basename(sys.argv[0] if argv0 is None else argv0)  # noqa: PTH119
    return "cep" if name in ("", "-c", "-m", "__main__.py") or name.endswith(".py") else name


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code (docs/cli.md)."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run one command; return its exit code, with every error told on standard error."""
    shared = Shared(program=program_name())
    try:
        done = app.main(list(argv), prog_name=shared.program, standalone_mode=False, obj=shared)
        sys.stdout.flush()
    except CepError as exc:
        return shared.tell(exc)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        return UsageError.exit_code
    except click.UsageError as exc:
        exc.show()
        return UsageError.exit_code
    except click.ClickException as exc:
        exc.show()
        return UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as exc:  # the top of the program: one sentence, the traceback on request
        return shared.tell_unexpected(exc)
    return done if isinstance(done, int) else 0


if __name__ == "__main__":
    main()
