"""Start the worker pool in an interpreter that may lack it: lend what it lacks, or say why not.

The agent copies this file (as `cep_lend.py`) beside `launch.sh` into the run directory, where the
chosen interpreter runs it on each node; so it uses the standard library alone and never imports
`cep` before it has made sure that it can. What is lent comes *after* the interpreter's own
packages: an environment's own versions win. Three sources, in this order:

* `cep` itself: a zip archive of its worker part beside this file, always the endpoint's version;
* the rest: the worker set for this Python and machine, below the directory of sets;
* or else the endpoint's own packages, when they are for the same Python and machine and are seen.

`cep_lend.py ask` ends with status 0 when nothing is lacking; `tell` says in a sentence what would
be. `cep_lend.py run BLOCK PYTHON WHY MODULE ARGUMENT...` starts the pool, or writes the reason into
a file of `block-BLOCK/` and ends with 78. Imported by the pool's fork server (see `CARRY`) it makes
the same packages visible there.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import runpy
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, NoReturn

#: The name of this file in the run directory, as a module.
MODULE = "cep_lend"
#: What the fork server, a process of its own, needs to see what was lent; gone in its workers.
CARRY = "CEP_LENT"
FACTS = "facts.json"
SET_FILE = "set.json"
SET_PACKAGES = "packages"
EXIT_REFUSED = 78
#: Files in a block's directory with the reason why it cannot run tasks: as no other block of this
#: configuration could, or perhaps by the fault of its node.
REFUSED, FAILED = "refused", "failed"
_OURS = "cep-endpoint"


@dataclass(frozen=True)
class Survey:
    """What an interpreter has of the worker's needs.

    Attributes:
        found: Versions of the needed distributions that are there; empty where nobody can say.
        lacks: Distributions that are not there.
        unfit: Those that are there in a version that cannot work, as phrases.
    """

    found: Mapping[str, str]
    lacks: Sequence[str]
    unfit: Sequence[str]


class Refused(Exception):
    """The pool cannot run in this interpreter; the text is a phrase for people.

    Args:
        reason: The phrase.
        everywhere: It would be so on every node, so that no other block need be tried.
    """

    def __init__(self, reason: str, *, everywhere: bool = True) -> None:
        super().__init__(reason)
        self.everywhere = everywhere


# -- what there is -----------------------------------------------------------------------------


def survey(needs: Sequence[Mapping[str, Any]]) -> Survey:
    """Look for the worker's needs in this interpreter, without importing them.

    Args:
        needs: Each with `name`, `module`, and the bounds `low` and `below` as lists of numbers,
            which may be empty.
    """
    found: dict[str, str] = {}
    lacks: list[str] = []
    for need in needs:
        version = _version_of(need["name"], need["module"])
        if version is None:
            lacks.append(need["name"])
        else:
            found[need["name"]] = version
    return Survey(found, lacks, unfit_of(needs, found))


def unfit_of(needs: Sequence[Mapping[str, Any]], found: Mapping[str, str]) -> list[str]:
    """The versions with which the worker cannot work, as phrases.

    Args:
        needs: As for `survey`.
        found: Versions by distribution.
    """
    unfit = []
    for need in needs:
        version = found.get(need["name"], "")
        numbers = _numbers(version)
        low, below = need["low"], need["below"]
        if numbers and ((low and numbers < low) or (below and numbers >= below)):
            unfit.append(f"{need['name']} {version} (the worker needs {_range(low, below)})")
    return unfit


def _version_of(name: str, module: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
    try:
        spec = util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    return None if spec is None else ""


def _numbers(version: str) -> list[int]:
    """The leading numbers of a version: `2026.10.26.post1` is [2026, 10, 26]."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return numbers


def _range(low: Sequence[int], below: Sequence[int]) -> str:
    bounds = [(">=", low), ("<", below)]
    return ",".join(f"{sign}{'.'.join(map(str, bound))}" for sign, bound in bounds if bound)


# -- what can be lent --------------------------------------------------------------------------


def libc() -> tuple[str, str]:
    """The C library's kind (`glibc`, `musl` or empty) and version, as far as it says."""
    build = str(sysconfig.get_config_var("HOST_GNU_TYPE") or "")
    if "musl" in build or "musl" in str(sysconfig.get_config_var("SOABI") or ""):
        return "musl", ""
    return platform.libc_ver()


def set_name(python: str, machine: str) -> str:
    """The directory of the set for a Python, as `3.12`, and a machine, as `x86_64`."""
    return f"python{python}-{machine}"


def lenders(facts: Mapping[str, Any], lacks: Sequence[str], here: Path) -> list[str]:
    """The entries for the end of `sys.path` that bring what is lacking.

    Raises:
        Refused: There is nothing to lend for this interpreter.
    """
    paths = []
    rest = list(lacks)
    if _OURS in rest:
        rest.remove(_OURS)
        if util.find_spec("cep") is not None:
            raise Refused("it has another package of the name cep, which hides the worker")
        paths.append(str(here / facts["archive"]))
    if rest:
        paths += _from_set(facts, rest)
    return paths


def _from_set(facts: Mapping[str, Any], lacks: Sequence[str]) -> list[str]:
    python, machine = ".".join(platform.python_version_tuple()[:2]), platform.machine()
    lacking = f"it lacks {', '.join(lacks)}"
    kind, version = libc()
    what = _never_lent(kind)
    if what:
        raise Refused(f"{lacking}, and nothing can be lent to {what}")
    place = Path(facts["sets"]) / set_name(python, machine)
    try:
        made = json.loads((place / SET_FILE).read_text(encoding="utf-8"))
        packages, glibc = dict(made["packages"]), str(made.get("glibc") or "")
    except FileNotFoundError:
        return _from_endpoint(facts, lacking, place)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            f"{lacking}, and the worker set {place} cannot be read: {error}", everywhere=False
        ) from error
    if glibc and version and _numbers(version) < _numbers(glibc):
        raise Refused(
            f"{lacking}, and the worker set {place} needs glibc {glibc}, where this host has "
            f"{version}"
        )
    missing = [name for name in lacks if name not in packages]
    if missing:
        raise Refused(f"{lacking}, and the worker set {place} has no {', '.join(missing)}")
    unfit = unfit_of([need for need in facts["needs"] if need["name"] in lacks], packages)
    if unfit:
        raise Refused(f"{lacking}, and the worker set {place} has {', '.join(unfit)}")
    return [str(place / SET_PACKAGES)]


def _never_lent(kind: str) -> str:
    """What is special about this interpreter that no set can be for, or nothing."""
    if platform.python_implementation() != "CPython":
        return platform.python_implementation()
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "a free-threaded Python"
    if kind == "musl":
        return "a Python on musl: worker sets are for glibc"
    return ""


def _from_endpoint(facts: Mapping[str, Any], lacking: str, place: Path) -> list[str]:
    own = facts["own"]
    python, machine = ".".join(platform.python_version_tuple()[:2]), platform.machine()
    paths = [path for path in own["paths"] if Path(path).is_dir()]
    if own["python"] == python and own["machine"] == machine and paths:
        return paths
    raise Refused(
        f"{lacking}, and there is no worker set for Python {python} on {machine}, which would be "
        f"{place}"
    )


# -- the start ---------------------------------------------------------------------------------


def differences(facts: Mapping[str, Any], found: Mapping[str, str]) -> list[str]:
    """What is not as at the endpoint, as phrases: Python's minor version, and packages."""
    endpoint = facts["endpoint"]
    here = ".".join(platform.python_version_tuple()[:2])
    told = []
    if here != ".".join(endpoint["python"].split(".")[:2]):
        told.append(f"Python {here} (endpoint {endpoint['python']})")
    for name, version in endpoint["packages"].items():
        if found.get(name) not in (None, "", version):
            told.append(f"{name} {found[name]} (endpoint {version})")
    return told


def run(facts: Mapping[str, Any], here: Path, argv: Sequence[str]) -> None:
    """Start the pool; `argv` is block, interpreter, reason, module and the module's arguments.

    Raises:
        Refused: It cannot run here.
    """
    block, python, why, module, *arguments = argv
    seen = survey(facts["needs"])
    if seen.unfit:
        raise Refused(f"it has {', '.join(seen.unfit)}")
    paths = lenders(facts, seen.lacks, here) if seen.lacks else []
    sys.path += paths
    importlib.invalidate_caches()
    if paths:
        _carry(paths, here)
    _tell(facts, seen, paths, (block, python, why))
    sys.argv[:] = [module, *arguments]
    try:
        importlib.import_module(facts["loads"])
    except Exception as error:
        why = f"the worker cannot be loaded in it: {error!r}"
        raise Refused(why, everywhere=False) from error
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _tell(
    facts: Mapping[str, Any], seen: Survey, paths: Sequence[str], who: tuple[str, str, str]
) -> None:
    """One line into the block's log: the decision and its reason."""
    block, python, why = who
    words = [
        f"cep: tasks of block {block} run in {python} (Python {platform.python_version()}, "
        f"prefix {sys.prefix}): {why}"
    ]
    if paths:
        words.append(f"it lacks {', '.join(seen.lacks)}, lent from {', '.join(paths)}")
    different = differences(facts, seen.found)
    if different:
        words.append(f"not as at the endpoint: {', '.join(different)}")
    print("; ".join(words).replace("\n", " "), flush=True)


def _carry(paths: Sequence[str], here: Path) -> None:
    """Let the fork server, which begins with a path of its own, find this module."""
    before = os.environ.get("PYTHONPATH")
    os.environ[CARRY] = json.dumps({"paths": list(paths), "before": before})
    os.environ["PYTHONPATH"] = str(here) if before is None else f"{here}{os.pathsep}{before}"


def settle() -> list[str]:
    """In the fork server or a worker: leave no trace of `CARRY` for tasks; return what is lent."""
    carried = json.loads(os.environ.pop(CARRY, "null"))
    if carried is None:
        return []
    if carried["before"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = carried["before"]
    paths: list[str] = carried["paths"]
    return paths


def arrive() -> None:
    """In a fork server that does not take over its parent's path (Python 3.12.3 and before)."""
    paths = settle()
    here = str(Path(__file__).parent)
    with contextlib.suppress(ValueError):
        sys.path.remove(here)
    sys.path += [path for path in paths if path not in sys.path]
    importlib.invalidate_caches()


def tell(facts: Mapping[str, Any], here: Path) -> str:
    """What would become of this interpreter on a host like this one, as a sentence."""
    seen = survey(facts["needs"])
    what = f"On this host it is Python {platform.python_version()}"
    if seen.unfit:
        return f"{what} and is refused: it has {', '.join(seen.unfit)}."
    try:
        paths = lenders(facts, seen.lacks, here) if seen.lacks else []
    except Refused as refusal:
        return f"{what} and is refused: {refusal}."
    if not paths:
        return f"{what} and has the worker."
    return f"{what} and lacks {', '.join(seen.lacks)}, which are lent from {', '.join(paths)}."


def _refuse(facts: Mapping[str, Any], here: Path, argv: Sequence[str], why: Refused) -> NoReturn:
    """Say it on the error output, and where the endpoint reads it."""
    block, python, choice = argv[:3]
    # The endpoint itself runs in its own Python: what is amiss there is being installed just now.
    everywhere = why.everywhere and python != facts["own"]["executable"]
    minor = ".".join(platform.python_version_tuple()[:2])
    sentence = (
        f"{python} (Python {platform.python_version()}, chosen because {choice}): {why}. Install "
        f"the worker there: {python} -m pip install "
        f"'{_OURS}=={facts['endpoint']['packages'][_OURS]}'; or make a set to lend, on the "
        f"endpoint's host: cep worker-sets add --python {minor}"
    ).replace("\n", " ")
    print(f"cep: block {block} cannot run tasks: {sentence}", file=sys.stderr, flush=True)
    place = here.parent / f"block-{block}"
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = place / f"refused.{platform.node()}.{os.getpid()}.part"
        part.write_text(f"{sentence}\n", encoding="utf-8")
        part.replace(place / (REFUSED if everywhere else FAILED))
    sys.exit(EXIT_REFUSED)


def main() -> None:
    """Entry of `cep_lend.py`; see the module."""
    here = Path(sys.argv[0]).parent
    verb, *argv = sys.argv[1:]
    facts = json.loads((here / FACTS).read_text(encoding="utf-8"))
    if verb == "ask":
        seen = survey(facts["needs"])
        sys.exit(1 if seen.lacks or seen.unfit else 0)
    if verb == "tell":
        print(tell(facts, here))
        return
    try:
        run(facts, here, argv)
    except Refused as refusal:
        _refuse(facts, here, argv, refusal)


if __name__ == "__main__":
    main()
elif __name__ == MODULE and CARRY in os.environ:
    arrive()
