"""The wheelhouse's bill of materials: which wheels there are, and which needs which. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from wheelhouse_wheels import Wheel


def bill_of_materials(
    wheels: Sequence[Wheel], own: Wheel, python: str, extras: Sequence[str]
) -> dict[str, Any]:
    """What the wheelhouse is made of, as CycloneDX 1.6 has it (ECMA-424).

    Args:
        wheels: All of them.
        own: The one that the others are there for.
        python: `3.11`.
        extras: Those of our own wheel that are in.
    """
    by_name = {one.name: one for one in wheels}
    seed = "\n".join(f"{one.name} {one.sha256}" for one in wheels)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, seed)}",
        "version": 1,
        "metadata": {"component": _component(own, "application")},
        "components": [_component(one, "library") for one in wheels if one is not own],
        "dependencies": [
            {"ref": _purl(one), "dependsOn": sorted(_purl(by_name[n]) for n in names)}
            for one in wheels
            for names in [_needs(one, by_name, python, extras if one is own else ())]
        ],
    }


def _component(one: Wheel, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": kind,
        "bom-ref": _purl(one),
        "name": one.name,
        "version": one.version,
        "purl": _purl(one),
        "hashes": [{"alg": "SHA-256", "content": one.sha256}],
    }
    if one.license:
        found["licenses"] = [{"license": {"name": one.license}}]
    return found


def _purl(one: Wheel) -> str:
    return f"pkg:pypi/{one.name}@{one.version}"


def _needs(one: Wheel, known: Mapping[str, Wheel], python: str, extras: Sequence[str]) -> set[str]:
    """Which of the wheels another one asks for."""
    from packaging.requirements import Requirement

    found = set()
    for text in one.requires:
        wanted = Requirement(text)
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        values = {"python_version": python, "python_full_version": f"{python}.0"}
        holds = wanted.marker is None or any(
            wanted.marker.evaluate({**values, "extra": extra}) for extra in ("", *extras)
        )
        if holds and name in known:
            found.add(name)
    return found
