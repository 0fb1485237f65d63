"""A host rolled out by the collection: its inventory, the plays on it, and what runs there then.

For the tests of the collection that have one host; a test changes the inventory and plays it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.ansible_host import AnsibleHost, Controller, Play
from tests.integration.wheelhouses import VERSION

HUB = "http://localhost:5000"
UNIT = "globus-compute-endpoint-{}.service"


class Rollout:
    """A host, the controller, and what the inventory says now."""

    def __init__(self, host: AnsibleHost, controller: Controller, files: dict[str, Path]) -> None:
        self.host = host
        self.controller = controller
        self.files = files
        self.secrets: list[str] = []
        self.before = host.everything()
        self.hub = True
        self.variables: dict[str, Any] = {
            "cep_version": VERSION,
            "cep_wheelhouse": str(files[VERSION]),
            "cep_service_url": HUB,
            "cep_endpoints": [],
        }

    def endpoint(self, name: str) -> dict[str, Any]:
        """The inventory's entry of an endpoint."""
        found: dict[str, Any]
        (found,) = [one for one in self.variables["cep_endpoints"] if one["name"] == name]
        return found

    def add(self, name: str, user: str, client: str | None = "tests", **more: Any) -> None:
        """Add an endpoint to the inventory."""
        entry = {
            "name": name,
            "user": user,
            "profile": "processes",
            "vars": {"max_workers": 1},
            **more,
        }
        if client is not None:
            known = self.host.client(client)
            entry["client_id"] = known["GLOBUS_COMPUTE_CLIENT_ID"]
            entry["client_secret"] = known["GLOBUS_COMPUTE_CLIENT_SECRET"]
            self.secrets.append(entry["client_secret"])
        self.variables["cep_endpoints"].append(entry)

    def play(
        self,
        playbook: str,
        *words: str,
        hosts: Mapping[str, Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> Play:
        """Run a playbook with everything shown that Ansible can show.

        With `hosts` on as many hosts, each with what is its own, and without the hub.
        """
        where = {
            "ansible_connection": "container",
            "ansible_host": self.host.name,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        hub = {
            "cep_hub_clients": ["tests", "other"],
            "cep_version": VERSION,
            "cep_wheelhouse": str(self.files[VERSION]),
        }
        own = {"node1": {}} if hosts is None else hosts
        nodes = {name: {**where, **self.variables, **values} for name, values in own.items()}
        groups = {"cep_endpoints": {"hosts": nodes}}
        if self.hub and hosts is None:
            groups["cep_hubs"] = {"hosts": {"hub1": {**where, **hub}}}
        inventory = {"all": {"children": groups}}
        return self.controller.play(playbook, inventory, "--diff", *words, extra=extra)

    def good(self, playbook: str, *words: str, **extra: Any) -> Play:
        """The same; it must succeed."""
        done = self.play(playbook, *words, **extra)
        assert done.good, f"{done.text}\n{self.host.journal()}"
        return done

    def processes(self) -> dict[str, str]:
        """The process of each endpoint's unit of the host."""
        return {one["name"]: self.host.process(one["name"]) for one in self.entries("system")}

    def entries(self, scope: str) -> list[dict[str, Any]]:
        """The endpoints whose units are of this scope."""
        return [
            one for one in self.variables["cep_endpoints"] if one.get("scope", "system") == scope
        ]

    def id_of(self, name: str) -> str:
        """An endpoint's registered id, as its account's file has it."""
        user = self.endpoint(name)["user"]
        text = self.host.read(f"/home/{user}/.globus_compute/{name}/endpoint.json")
        return str(json.loads(text)["endpoint_id"])

    def doubles(self, name: str) -> bool:
        """Whether functions run on an endpoint, through the official SDK."""
        return bool(self.host.functions(self.host.client(), "many", self.id_of(name), "3")["right"])
