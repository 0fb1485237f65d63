"""`render`: show what an endpoint would submit, or ask the scheduler about it; nothing is run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cep.cli import naming
from cep.cli.command import CepCommand, Shared, set_up_logging
from cep.errors import UsageError
from cep.paths import EndpointPaths
from cep.safety.text import printable, redact_script

if TYPE_CHECKING:
    from cep.config.settings import EndpointSettings


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@click.option("--submit-script", is_flag=True, help="Show the script of a block and its commands.")
@click.option("--submit-test", is_flag=True, help="Ask the scheduler; nothing is run.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.pass_obj
def render(
    shared: Shared, *, name: str, submit_script: bool, submit_test: bool, as_json: bool
) -> None:
    """Show an endpoint's configuration, or what it would submit. Secrets are masked."""
    from cep.config.load import load

    if submit_script and submit_test:
        raise UsageError("--submit-script and --submit-test contradict each other.")
    set_up_logging(shared)
    root = naming.find_root(shared.base, name)
    settings = load(root / "config.yaml")
    paths = EndpointPaths.of(root, run_dir=settings.run_dir, state_dir=settings.state_dir)
    if submit_test:
        from cep.agent.preview import submit_test as ask

        words = printable(redact_script(ask(paths, settings)), keep="\n\t")
        if as_json:
            click.echo(json.dumps({"accepted": True, "answer": words}))
        else:
            click.echo(f"The scheduler would take the job. {words}".rstrip())
    elif submit_script:
        _show_submission(paths, settings, as_json=as_json)
    elif as_json:
        click.echo(
            json.dumps({"file": str(paths.config), "text": redact_script(settings.raw_text)})
        )
    else:
        click.echo(redact_script(settings.raw_text), nl=False)


def _show_submission(paths: EndpointPaths, settings: EndpointSettings, *, as_json: bool) -> None:
    from cep.agent.preview import submission

    found = submission(paths, settings)
    scripts = [{"name": name, "text": redact_script(text)} for name, text in found.scripts.items()]
    if as_json:
        told = {
            "provider": found.provider,
            "scripts": scripts,
            "command": redact_script(found.command),
            "worker_command": redact_script(found.worker_command),
            "container": None if found.container is None else redact_script(found.container),
            "port_is_chosen": found.port_is_chosen,
            "launch_file": found.launch_file,
            "launch_text": found.launch_text,
            "python": found.python,
        }
        click.echo(json.dumps(told))
        return
    for script in scripts:
        click.echo(f"# --- {found.provider}: {script['name']}")
        click.echo(script["text"].rstrip("\n"))
    click.echo("# --- submitted by")
    click.echo(redact_script(found.command))
    click.echo("# --- on each node, the workers' command")
    click.echo(redact_script(found.worker_command))
    if found.launch_file is not None:
        click.echo(f"# --- which Python runs tasks: {found.launch_file}")
        click.echo(found.launch_text.rstrip("\n"))
    click.echo("# --- as far as this host can tell")
    click.echo(redact_script(found.python))
    if found.container is not None:
        click.echo("# --- the container around it")
        click.echo(redact_script(found.container))
    if found.port_is_chosen:
        click.echo(
            "The port of the workers is chosen at the start; the one shown stands for it.", err=True
        )
