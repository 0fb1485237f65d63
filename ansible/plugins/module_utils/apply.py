# Copyright: The cep project
# Apache-2.0 (see LICENSE)
"""The two modules' common part: one document to `cep apply`, one object back."""

from __future__ import annotations

import json
import os

# The fields of an entry that a module's parameter of the same name becomes.
_SAME = (
    "name",
    "state",
    "config_dir",
    "profile",
    "site",
    "vars",
    "config",
    "display_name",
    "ca_file",
    "uuid",
    "on_change",
    "purge",
    "deregister",
)
_RENAMED = {"service_url": "service", "drain_timeout": "drain_s"}
_UNIT = ("scope", "enabled", "hardening", "memory_max", "cpu_quota", "tasks_max", "any_host")
_UNIT_RENAMED = {"unit_name": "name", "replace_unit": "replace"}


def entry_of(params):
    """One entry of the document; what is not given (or is empty) is left out."""
    entry = _given(params, {name: name for name in _SAME} | _RENAMED)
    if params.get("user") and os.geteuid() == 0:
        entry["run_as"] = params["user"]
    unit = _given(params, {name: name for name in _UNIT} | _UNIT_RENAMED)
    if unit and entry.get("state") != "absent":
        entry["unit"] = unit
    credentials = _given(
        params,
        {
            "client_id": "client_id",
            "client_secret": "client_secret",
            "client_secret_file": "client_secret_file",
        },
    )
    if credentials:
        entry["credentials"] = credentials
    return entry


def _given(params, names):
    """Parameters that have a value, under the names that the document has for them."""
    return {
        target: params[source]
        for source, target in names.items()
        if params.get(source) not in (None, "", {})
    }


def call(module, words, document):
    """Run `cep apply` with a document on its standard input; return the object it answers.

    The document may hold secrets, so it is neither an argument nor a file. Ends the module with a
    failure when there is no answer to be understood.
    """
    program = module.params["program"]
    given = None if document is None else json.dumps(document)
    argv = [program, "apply", *words, "--json"]
    if given is not None:
        argv += ["-f", "-"]
    locale = {"LC_ALL": "C.UTF-8"}
    code, out, err = module.run_command(argv, data=given, cwd="/", environ_update=locale)
    try:
        return json.loads(out)
    except ValueError:
        module.fail_json(
            msg=f"{program} apply ended with {code} and no answer: {(err or out).strip()[-2000:]}",
            rc=code,
        )


def why_not(answer):
    """One sentence with everything that is wrong; empty when nothing is."""
    if answer.get("problems"):
        return " ".join(
            f"{problem.get('endpoint') or problem['where']}: {problem['sentence']}"
            for problem in answer["problems"]
        )
    said = [_sentence(answer["error"])] if answer.get("error") else []
    for one in answer.get("endpoints") or ():
        if one.get("error"):
            said.append(f"{one['name']}: {_sentence(one['error'])}")
    return " ".join(said)


def _sentence(error):
    hint = error.get("hint")
    return f"{error['sentence']} {hint}" if hint else error["sentence"]
