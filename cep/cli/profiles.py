"""`profiles`: the kinds of sites that `configure` knows, their variables, and the known sites."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import click

from cep.cli.command import HELP_OPTIONS, CepCommand, CepGroup, Shared
from cep.cli.detection import detect
from cep.cli.table import draw

if TYPE_CHECKING:
    from cep.profiles.catalog import Profile
    from cep.profiles.presets import Preset
    from cep.profiles.search import SearchPath
    from cep.profiles.variables import Variable

_WIDTH = 96


@click.group(cls=CepGroup, context_settings=HELP_OPTIONS, invoke_without_command=True)
@click.pass_context
def profiles(ctx: click.Context) -> None:
    """Show the kinds of sites and the known sites."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_profiles, profile_dir=None, as_json=False)


_FOLDER = click.option("--profile-dir", metavar="DIR", help="Look for profiles here first.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


@profiles.command("list", cls=CepCommand)
@_FOLDER
@_JSON
@click.pass_obj
def list_profiles(shared: Shared, *, profile_dir: str | None, as_json: bool) -> None:
    """List the profiles and the presets, and where each came from."""
    from cep.profiles import catalog, presets
    from cep.profiles.render import files_of

    search = _search(shared, profile_dir)
    found = [catalog.find(name, search) for name in catalog.names(search)]
    sites = [presets.find(name, search) for name in presets.names(search)]
    if as_json:
        told = [{"name": one.name, "summary": one.summary, "files": files_of(one)} for one in found]
        click.echo(json.dumps({"profiles": told, "presets": [one.as_json() for one in sites]}))
        return
    click.echo(draw(("Profile", "What it is for", "From"), [_profile_row(one) for one in found]))
    click.echo()
    click.echo(
        draw(
            ("Site", "Name", "Profile", "Facts of", "Trust", "From"),
            [
                (one.name, one.site, one.profile, one.checked, one.trust, one.origin)
                for one in sites
            ],
        )
    )


@profiles.command("show", cls=CepCommand)
@click.argument("name")
@_FOLDER
@_JSON
@click.pass_obj
def show_profile(shared: Shared, *, name: str, profile_dir: str | None, as_json: bool) -> None:
    """Show the variables of a profile, or the values of a preset."""
    from cep.profiles import catalog, presets

    search = _search(shared, profile_dir)
    if name in presets.names(search) and name not in catalog.names(search):
        preset = presets.find(name, search)
        click.echo(json.dumps(preset.as_json()) if as_json else _preset_text(preset, shared))
        return
    from cep.profiles.render import files_of

    profile = catalog.find(name, search)
    files = files_of(profile)
    click.echo(
        json.dumps(profile.as_json(files)) if as_json else _profile_text(profile, files, shared)
    )


profiles.add_command(detect)


def _search(shared: Shared, profile_dir: str | None) -> SearchPath:
    from cep.profiles.search import SearchPath

    return SearchPath.of(shared.base, profile_dir)


def _profile_row(profile: Profile) -> tuple[str, str, str]:
    from cep.profiles.render import files_of
    from cep.profiles.search import BUILT_IN

    files = files_of(profile)
    own = [f"{file}: {origin}" for file, origin in files.items() if origin != BUILT_IN]
    return profile.name, profile.summary, ", ".join(own) or BUILT_IN


def _profile_text(profile: Profile, files: dict[str, str], shared: Shared) -> str:
    lines = [f"{profile.name}: {profile.summary}", ""]
    needed = {one.group for one in profile.variables.values() if one.required}
    groups = dict.fromkeys(variable.group for variable in profile.variables.values())
    for group in sorted(groups, key=lambda group: group not in needed):  # what is needed first
        lines.append(group.upper())
        for variable in profile.variables.values():
            if variable.group == group:
                lines += _variable_lines(variable)
        lines.append("")
    lines.append(f"  {shared.program} configure NAME --profile {profile.name} --set NAME=VALUE ...")
    lines.append("")
    lines += [f"  {file}: {origin}" for file, origin in files.items()]
    return "\n".join(lines)


def _variable_lines(variable: Variable) -> list[str]:
    facts = [variable.wanted]
    if variable.required:
        facts.append("required")
    if variable.required_when is not None:
        conditions = [
            f"{name} is {' or '.join(_word(option) for option in options)}"
            for name, options in variable.required_when.items()
        ]
        facts.append(f"required when {' and '.join(conditions)}")
    if variable.default is not None:
        facts.append(f"default {_word(variable.default)}")
    if variable.excludes:
        facts.append(f"not together with {', '.join(variable.excludes)}")
    lines = [f"  {variable.name}  ({'; '.join(facts)})"]
    lines += textwrap.wrap(
        variable.description, _WIDTH, initial_indent="      ", subsequent_indent="      "
    )
    if variable.example is not None:
        lines.append(f"      Example: {variable.name}={_word(variable.example)}")
    return lines


def _preset_text(preset: Preset, shared: Shared) -> str:
    lines = [
        f"{preset.name}: {preset.site}",
        f"  profile {preset.profile}; {preset.trust}; facts of {preset.checked}",
        f"  source: {preset.source}",
        f"  from: {preset.origin}",
    ]
    if preset.notes:
        lines += ["", *textwrap.wrap(preset.notes, _WIDTH, initial_indent="  ")]
    lines.append("")
    lines += [f"  {name}={_word(value)}" for name, value in preset.values.items()]
    lines += [f"  {name}  (yours to give)" for name in preset.required]
    words = " ".join(f"--set {name}=VALUE" for name in preset.required)
    lines += ["", f"  {shared.program} configure NAME --site {preset.name} {words}".rstrip()]
    return "\n".join(lines)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(_word(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{name}={text}" for name, text in value.items())
    return str(value).rstrip("\n").replace("\n", "\\n")
