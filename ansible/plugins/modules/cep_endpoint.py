#!/usr/bin/python
# Copyright: The cep project
# Apache-2.0 (see LICENSE)
"""One endpoint of an account, as wanted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cep_endpoint
short_description: Have an endpoint configured, as a service, running, or gone
version_added: "0.1.0"
description:
  - Hands what is wanted to C(cep apply) and returns what it did. C(cep) decides what that takes;
    a second run changes nothing, check mode and diff are exact.
  - Called by root with O(user), everything below that account's home is done as that account.
    Called as the account itself it is the same without O(user).
author:
  - The cep project (@cep-project)
attributes:
  check_mode:
    description: Says what it would do, and changes nothing.
    support: full
  diff_mode:
    description: Shows the files' texts, secrets masked.
    support: full
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  user:
    description: The account that the endpoint belongs to. Counts when root calls.
    type: str
  program:
    description: The absolute path of C(cep) in the release to use; the unit names that release.
    type: path
    default: /opt/cep/current/bin/cep
  state:
    description:
      - What is wanted. V(drained) lets running tasks finish, and stops. V(present) neither starts
        nor stops it.
    type: str
    choices: [present, started, stopped, drained, absent]
    default: started
  config_dir:
    description: Directory of the account's endpoints; C(.globus_compute) in its home.
    type: path
  profile:
    description: The kind of site.
    type: str
  site:
    description: A known site, which brings its profile along.
    type: str
  vars:
    description: Variables of the profile. What is not given has its default.
    type: dict
  config:
    description: A whole configuration in place of a profile.
    type: dict
  display_name:
    description: Name at the service.
    type: str
  service_url:
    description: Address of a hub; without it the hosted service.
    type: str
  ca_file:
    description: Authorities to trust for that address; read by the account.
    type: path
  uuid:
    description: The ID to register under, that of an earlier installation.
    type: str
  client_id:
    description: The client that the endpoint logs in as.
    type: str
  client_secret:
    description: Its secret. It travels on standard input alone.
    type: str
  client_secret_file:
    description: A file on the host with the secret, for its owner only.
    type: path
  scope:
    description: A unit of the host, or of the account's own service manager.
    type: str
    choices: [system, user]
  enabled:
    description:
      - Whether it starts at boot. Without this and the other options of the unit, the unit stays
        as it is.
    type: bool
  unit_name:
    description: Another name for the unit.
    type: str
  hardening:
    description: How much systemd takes away from the service.
    type: str
    choices: [compat, standard, strict]
  memory_max:
    description: Memory of the service, such as C(4G).
    type: str
  cpu_quota:
    description: Its processor time, such as C(400%).
    type: str
  tasks_max:
    description: Its processes and threads.
    type: str
  any_host:
    description: A unit of the account may start on every host that shares the home.
    type: bool
  replace_unit:
    description: Take over a unit that the published endpoint wrote.
    type: bool
  on_change:
    description: What happens to a running endpoint whose configuration, unit or secret changed.
    type: str
    choices: [restart, reload, none]
    default: restart
  drain_timeout:
    description: Seconds that running tasks get before a restart or a stop.
    type: int
  purge:
    description: With V(absent) also remove the endpoint's directory.
    type: bool
    default: false
  deregister:
    description: With V(absent) also delete the registration at the service.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Have an endpoint in batch jobs
  cep.cep.cep_endpoint:
    name: cluster
    user: alice
    profile: slurm
    vars:
      partition: debug
    scope: system
    enabled: true
    client_id: "{{ vault_client_id }}"
    client_secret: "{{ vault_client_secret }}"
"""

RETURN = r"""
endpoint_id:
  description: The registered ID, or null before the first start.
  returned: success
  type: str
state:
  description: Absent, Initialized, Running, Stopped or Disconnected.
  returned: success
  type: str
actions:
  description: What was done, or in check mode would be.
  returned: success
  type: list
  elements: str
waiting:
  description: What the account has to do before the endpoint can start, or null.
  returned: success
  type: str
restarted:
  description: Whether a running endpoint was restarted.
  returned: success
  type: bool
reloaded:
  description: Whether a running endpoint took over what changed without a restart.
  returned: success
  type: bool
restart_needed:
  description: What changed holds from the next start on.
  returned: success
  type: bool
endpoint:
  description: Everything that C(cep apply) said about it.
  returned: success
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.apply import call, entry_of, why_not

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "user": {"type": "str"},
    "program": {"type": "path", "default": "/opt/cep/current/bin/cep"},
    "state": {
        "type": "str",
        "choices": ["present", "started", "stopped", "drained", "absent"],
        "default": "started",
    },
    "config_dir": {"type": "path"},
    "profile": {"type": "str"},
    "site": {"type": "str"},
    "vars": {"type": "dict"},
    "config": {"type": "dict"},
    "display_name": {"type": "str"},
    "service_url": {"type": "str"},
    "ca_file": {"type": "path"},
    "uuid": {"type": "str"},
    "client_id": {"type": "str"},
    "client_secret": {"type": "str", "no_log": True},
    "client_secret_file": {"type": "path", "no_log": False},
    "scope": {"type": "str", "choices": ["system", "user"]},
    "enabled": {"type": "bool"},
    "unit_name": {"type": "str"},
    "hardening": {"type": "str", "choices": ["compat", "standard", "strict"]},
    "memory_max": {"type": "str"},
    "cpu_quota": {"type": "str"},
    "tasks_max": {"type": "str"},
    "any_host": {"type": "bool"},
    "replace_unit": {"type": "bool"},
    "on_change": {
        "type": "str",
        "choices": ["restart", "reload", "none"],
        "default": "restart",
    },
    "drain_timeout": {"type": "int"},
    "purge": {"type": "bool", "default": False},
    "deregister": {"type": "bool", "default": False},
}

#: What `cep apply` says of an endpoint that is returned under its own name.
TOLD = (
    "endpoint_id",
    "state",
    "actions",
    "waiting",
    "restarted",
    "reloaded",
    "restart_needed",
)


def main():
    """Check the parameters, call, and return."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        mutually_exclusive=[
            ("config", "profile"),
            ("config", "site"),
            ("client_secret", "client_secret_file"),
        ],
        required_by={
            "client_secret": "client_id",
            "client_secret_file": "client_id",
        },
        supports_check_mode=True,
    )
    if module.check_mode and not Path(module.params["program"]).exists():
        module.exit_json(
            changed=module.params["state"] != "absent",
            endpoint_id=None,
            state="Absent",
            actions=[],
            waiting=None,
            restarted=False,
            reloaded=False,
            restart_needed=False,
            endpoint={},
            msg=f"{module.params['program']} is not there yet, so what it would do cannot be told.",
        )
    words = ["--dry-run"] if module.check_mode else []
    answer = call(module, words, {"endpoints": [entry_of(module.params)]})
    found = (answer.get("endpoints") or [{}])[0]
    result = {
        "changed": bool(answer.get("changed")),
        "diff": found.get("diff") or [],
        "endpoint": {name: value for name, value in found.items() if name != "diff"},
    }
    result |= {name: found.get(name) for name in TOLD}
    if not answer.get("ok"):
        module.fail_json(msg=why_not(answer) or "cep apply failed without a reason", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
