"""The fuzz targets, by name: where each one is defined."""

from __future__ import annotations

import importlib

from tests.fuzz.target import Target

_HERE = "tests.fuzz.targets"
WHERE = {
    "wire": f"{_HERE}.wire",
    "broker": f"{_HERE}.broker",
    "rest": f"{_HERE}.rest",
    "relay": f"{_HERE}.relay",
    "pool": f"{_HERE}.pool",
    "htex": f"{_HERE}.htex",
    "files": f"{_HERE}.files",
    "control": f"{_HERE}.control",
    "config": f"{_HERE}.config",
    "profile": f"{_HERE}.profile",
    "imports": f"{_HERE}.imports",
}


def load(name: str) -> Target:
    """Import one target, and by that the code under test."""
    found = importlib.import_module(WHERE[name]).TARGET
    assert isinstance(found, Target)
    return found
