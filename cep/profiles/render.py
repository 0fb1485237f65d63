"""Profile + values -> the text of a config.yaml, checked before anybody writes it. No effects.

Templates run in jinja's sandbox with undefined variables as errors; every text passes a filter
that makes it safe for its place (`cep.profiles.filters`).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import (
    BaseLoader,
    Environment,
    StrictUndefined,
    TemplateError,
    TemplateNotFound,
    meta,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cep.config.load import load_text
from cep.errors import ConfigError
from cep.profiles import filters
from cep.profiles.catalog import Profile, damaged
from cep.profiles.search import BUILT_IN, Found, SearchPath

#: What a template of a site may run into beyond jinja's own errors.
_WRONG_TEMPLATE = (
    ArithmeticError,  # with the sandbox's bound of a range
    AttributeError,
    LookupError,
    OSError,
    RecursionError,  # it includes itself
    TypeError,
    ValueError,
)


class _OnSearchPath(BaseLoader):
    """Finds a profile's template and its partials, and keeps in mind where they came from."""

    def __init__(self, search: SearchPath) -> None:
        self._search = search

    def get_source(
        self, environment: Environment, template: str
    ) -> tuple[str, str, Callable[[], bool]]:
        """The text of a template, as jinja wants it."""
        del environment
        found = self._search.find(template)
        if found is None:
            raise TemplateNotFound(template)
        path, changed = found.path, found.path.stat().st_mtime_ns

        def unchanged() -> bool:
            now = self._search.find(template)
            return now is not None and (now.path, now.path.stat().st_mtime_ns) == (path, changed)

        return path.read_text(encoding="utf-8"), str(path), unchanged


def render(
    profile: Profile,
    values: Mapping[str, Any],
    *,
    service_url: str | None = None,
    service_is_hub: bool = False,
    ca_file: str | None = None,
    origin: str,
) -> str:
    """Return the configuration's text, which `cep validate` accepts but for placeholders.

    Args:
        profile: The profile.
        values: Of every variable, as `Values.finish` returns them.
        service_url: Written into the file when not None.
        service_is_hub: The service says its AMQP port itself.
        ca_file: Written into the file as `ssl_ca_file` when not None.
        origin: What to call the result in messages, usually its path.

    Raises:
        ConfigError: The values do not make a valid configuration, or a site's template is wrong.
        SoftwareError: A shipped template is damaged.
    """
    try:
        template = _environment(profile.search).get_template(profile.template.name)
        text = template.render(
            **values, service_url=service_url, service_is_hub=service_is_hub, ca_file=ca_file
        )
    except (TemplateError, *_WRONG_TEMPLATE) as exc:
        raise damaged(_culprit(profile, exc), exc) from exc
    _check(profile, text, origin)
    return text


@functools.lru_cache(maxsize=8)
def _environment(search: SearchPath) -> Environment:
    environment = ImmutableSandboxedEnvironment(
        loader=_OnSearchPath(search),
        undefined=StrictUndefined,
        finalize=filters.only_placed,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["yaml"] = filters.as_yaml
    environment.filters["block"] = filters.as_block
    environment.filters["quote"] = filters.quoted
    environment.filters["path"] = filters.home_path
    environment.filters["script"] = filters.as_script
    return environment


def files_of(profile: Profile) -> dict[str, str]:
    """Every file that a profile is made of, parts included, and where each came from.

    Raises:
        ConfigError: A site's template is wrong.
        SoftwareError: A shipped template is damaged.
    """
    environment = _environment(profile.search)
    files = dict(profile.origins)
    open_ones = [profile.template.name]
    while open_ones:
        found = profile.search.find(name := open_ones.pop())
        if found is None:
            continue  # rendering tells
        files[name] = found.origin
        try:
            parsed = environment.parse(found.path.read_text(encoding="utf-8"))
        except (OSError, TemplateError, UnicodeDecodeError) as exc:
            raise damaged(found, exc) from exc
        included = (other for other in meta.find_referenced_templates(parsed) if other)
        open_ones += [other for other in included if other not in files]
    return files


def difference(old: str, new: str, path: str) -> str:
    """A unified diff from the old text to the new one; empty when they are equal."""
    return "".join(
        difflib.unified_diff(
            old.splitlines(keepends=True),
            new.splitlines(keepends=True),
            fromfile=path,
            tofile=f"{path} (new)",
        )
    )


def _check(profile: Profile, text: str, origin: str) -> None:
    try:
        load_text(text, origin, unset_allowed=True)
    except ConfigError as exc:
        origins = sorted(set(profile.origins.values()))
        raise ConfigError(
            exc.message, hint=f"The file would come from the profile {profile.name} ({origins[0]})."
        ) from exc


def _culprit(profile: Profile, error: Exception) -> Found:
    """The file to name for an error: the one jinja names, else the first that is not shipped."""
    named = profile.search.find(getattr(error, "name", None) or "")
    if named is not None:
        return named
    main = Found(profile.template, profile.origins[profile.template.name])
    if main.origin != BUILT_IN:
        return main
    foreign = (name for name, origin in files_of(profile).items() if origin != BUILT_IN)
    return next((found for name in foreign if (found := profile.search.find(name))), main)
