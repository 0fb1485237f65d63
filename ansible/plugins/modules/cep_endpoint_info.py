#!/usr/bin/python
# Copyright: The cep project
# Apache-2.0 (see LICENSE)
"""What there is of the endpoints of an account."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cep_endpoint_info
short_description: Tell the endpoints of an account, their IDs and states
version_added: "0.1.0"
description:
  - Asks C(cep apply --info) and changes nothing.
author:
  - The cep project (@cep-project)
attributes:
  check_mode:
    description: It never changes anything.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
options:
  names:
    description: Which endpoints; without it all of the calling account.
    type: list
    elements: str
    default: []
  user:
    description: The account that O(names) belong to. Counts when root calls.
    type: str
  config_dir:
    description: Directory of the account's endpoints; C(.globus_compute) in its home.
    type: path
  program:
    description: The absolute path of C(cep).
    type: path
    default: /opt/cep/current/bin/cep
"""

EXAMPLES = r"""
- name: Ask for the registered ID
  cep.cep.cep_endpoint_info:
    user: alice
    names: [cluster]
  register: found

- name: Show it
  ansible.builtin.debug:
    var: found.endpoints[0].endpoint_id
"""

RETURN = r"""
endpoints:
  description: One object for each, with name, endpoint_id, state, unit, agent, waiting and more.
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.apply import call, entry_of, why_not


def main():
    """Ask and return."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "default": []},
            "user": {"type": "str"},
            "config_dir": {"type": "path"},
            "program": {"type": "path", "default": "/opt/cep/current/bin/cep"},
        },
        supports_check_mode=True,
    )
    document = None
    if module.params["names"]:
        entries = [entry_of({**module.params, "name": name}) for name in module.params["names"]]
        document = {"endpoints": entries}
    answer = call(module, ["--info"], document)
    if not answer.get("ok"):
        module.fail_json(msg=why_not(answer) or "cep apply --info failed without a reason")
    module.exit_json(changed=False, endpoints=answer["endpoints"])


if __name__ == "__main__":
    main()
