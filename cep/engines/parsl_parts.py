"""Load single modules of Parsl without running the packages around them.

`import parsl` brings in every executor, the workflow engine and, where it is installed, the whole
Globus Compute SDK: 0.8 s and 50 MiB in each process. The interchange and the worker pool need about
thirty modules of it. They are processes of our own, so they may load only those: the packages
are registered unexecuted, and one that somebody touches later (a user's function that imports
parsl, say) runs then, as if it had been imported plainly.

`load` runs on the main thread of the launch modules and of the worker forkserver. The agent imports
all of Parsl (`import_in_agent`), for it uses far more of it, but not what Parsl can do without.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

log = logging.getLogger(__name__)

#: Packages whose `__init__` is not needed by the interchange or the worker pool.
PACKAGES = (
    "parsl",
    "parsl.app",
    "parsl.data_provider",
    "parsl.executors",
    "parsl.monitoring",
)
#: Set to anything: import Parsl plainly.
PLAIN_VARIABLE = "CEP_PLAIN_PARSL_IMPORT"
#: Parsl's address module imports it for one function that asks a web page for our address.
_UNUSED_LIBRARY = "requests"
#: What Parsl takes along when it is installed. The SDK: 0.3 s, 25 MiB and a thread that never ends
#: before the main thread does; SQLAlchemy, which the hub brings: 0.25 s for Parsl's monitoring.
_SDK = "globus_compute_sdk"
_NOT_IN_AGENT = (_SDK, "sqlalchemy")


def import_in_agent() -> None:
    """Import Parsl as it is where neither the SDK nor SQLAlchemy is installed.

    The agent must not load the SDK when it starts. To be called before another thread could want
    one of them; what is loaded already stays, and with the SDK or Parsl there is nothing to do.
    """
    if "parsl" in sys.modules or _SDK in sys.modules:
        return
    hidden = [name for name in _NOT_IN_AGENT if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        with _types_checked_from_first_call():
            importlib.import_module("parsl.executors.high_throughput.executor")
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _types_checked_from_first_call() -> Iterator[None]:
    """Let typeguard rewrite a function when it is first called instead of when it is defined.

    For each function it reads and compiles the whole module anew: 0.2 s for all of Parsl's, of
    which the agent calls a handful. Those are checked as ever.
    """
    typeguard: Any = importlib.import_module("typeguard")
    at_once = typeguard.typechecked

    def typechecked(target: Any = None, **options: Any) -> Any:
        if not options and isinstance(target, types.FunctionType):
            return _checked_from_first_call(target, at_once)
        if not options and isinstance(target, type):
            for name, member in list(vars(target).items()):
                if isinstance(member, types.FunctionType):
                    setattr(target, name, _checked_from_first_call(member, at_once))
            return target
        return at_once(target, **options)

    typeguard.typechecked = typechecked
    try:
        yield
    finally:
        typeguard.typechecked = at_once


def _checked_from_first_call(
    function: types.FunctionType, check: Callable[[Any], Any]
) -> Callable[..., Any]:
    made: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not made:
            made.append(check(function))
        return made[0](*args, **kwargs)

    return call


def load(name: str) -> types.ModuleType:
    """Import a module of Parsl with as little of the rest as possible.

    Falls back to a plain import when anything about the light way fails.

    Args:
        name: Full name, e.g. `parsl.executors.high_throughput.interchange`.

    Raises:
        ImportError: Parsl is not installed or has no such module.
    """
    if os.environ.get(PLAIN_VARIABLE) or "parsl" in sys.modules:
        return importlib.import_module(name)
    try:
        return _load_light(name)
    except Exception as error:
        log.debug("light import of %s failed (%r), importing plainly", name, error)
        _forget_all()
        return importlib.import_module(name)


def _load_light(name: str) -> types.ModuleType:
    for package in PACKAGES:
        _register(package)
    borrowed = _UNUSED_LIBRARY not in sys.modules
    if borrowed:
        sys.modules[_UNUSED_LIBRARY] = types.ModuleType(_UNUSED_LIBRARY)
    try:
        return importlib.import_module(name)
    finally:
        if borrowed:
            del sys.modules[_UNUSED_LIBRARY]


def _register(package: str) -> None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.loader is None:
        raise ImportError(f"No package named {package}.")
    loader = spec.loader
    module = importlib.util.module_from_spec(spec)
    running = threading.RLock()

    def fill(attribute: str) -> Any:
        """A module of the package comes alone; any other name runs the package for real."""
        if attribute.startswith("__") and attribute not in ("__all__", "__version__"):
            raise AttributeError(f"module {package!r} has no attribute {attribute!r}")
        name = f"{package}.{attribute}"
        if importlib.util.find_spec(name) is not None:
            return importlib.import_module(name)
        with running:
            if module.__dict__.pop("__getattr__", None) is not None:
                loader.exec_module(module)
        try:
            return module.__dict__[attribute]
        except KeyError:
            raise AttributeError(f"module {package!r} has no attribute {attribute!r}") from None

    module.__dict__["__getattr__"] = fill
    sys.modules[package] = module
    parent, _, child = package.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _forget_all() -> None:
    for name in [name for name in sys.modules if name == "parsl" or name.startswith("parsl.")]:
        del sys.modules[name]
