"""Where configuration, state, logs and templates live; nobody else in the house knows.

Layout: docs/architecture.md, section "On disk". Everything here is pure path arithmetic except
`templates_dir`, which looks for the shipped templates.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cep.errors import SoftwareError, UsageError

USER_DIR_VARIABLE = "GLOBUS_COMPUTE_USER_DIR"
#: Profiles and presets that a site's administrator adds or replaces.
SITE_PROFILES = Path("/etc/cep/profiles")
NAME_RULE = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,64}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")


def user_dir(override: str | os.PathLike[str] | None = None) -> Path:
    """Return the directory that holds all endpoints of this account.

    Args:
        override: The value of `-c/--config-dir`, which wins over the environment.
    """
    chosen = override or os.environ.get(USER_DIR_VARIABLE) or "~/.globus_compute"
    return Path(chosen).expanduser().absolute()


def looks_like_uuid(text: str) -> bool:
    """Whether the text is a UUID, with or without hyphens."""
    return _UUID.fullmatch(text) is not None


def check_new_name(name: str) -> str:
    """Return the name unchanged when it may be given to a new endpoint.

    Raises:
        UsageError: The name breaks the rule; the message states the rule.
    """
    if NAME_RULE.fullmatch(name) is None or looks_like_uuid(name):
        raise UsageError(
            f"The endpoint name {name!r} is not allowed: a name is 1 to 64 letters, digits, "
            "'_', '-' or '.', does not begin with a dot, and is not a UUID."
        )
    return name


@dataclass(frozen=True, slots=True)
class EndpointPaths:
    """The files of one endpoint.

    Attributes:
        root: The endpoint's directory (`config.yaml`, `endpoint.json`, lease, pid, log).
        run: The shared half that compute nodes must see (`run_dir:`), default `root`.
        state: The local half with honest locks (`state_dir:`), default `root`.
    """

    root: Path
    run: Path
    state: Path

    @classmethod
    def of(
        cls, root: Path, *, run_dir: str | None = None, state_dir: str | None = None
    ) -> EndpointPaths:
        """Build from the endpoint's directory and the optional `run_dir`/`state_dir` values."""
        run = root if run_dir is None else (root / Path(run_dir).expanduser()).absolute()
        state = root if state_dir is None else (root / Path(state_dir).expanduser()).absolute()
        return cls(root=root, run=run, state=state)

    @property
    def name(self) -> str:
        """The endpoint's name: that of its directory."""
        return self.root.name

    @property
    def config(self) -> Path:
        """The user's configuration."""
        return self.root / "config.yaml"

    @property
    def endpoint_json(self) -> Path:
        """`{"endpoint_id": UUID}`, written at the first registration."""
        return self.root / "endpoint.json"

    @property
    def lease(self) -> Path:
        """Who runs this endpoint: host, boot id, pid, fencing token."""
        return self.root / "lease.json"

    @property
    def pid_file(self) -> Path:
        """The process id as text, as the published endpoint writes it."""
        return self.root / "daemon.pid"

    @property
    def log(self) -> Path:
        """The agent's log."""
        return self.root / "endpoint.log"

    @property
    def paused_mark(self) -> Path:
        """Exists while the endpoint is paused; survives restarts."""
        return self.root / "paused"

    @property
    def restart_due(self) -> Path:
        """Holds the fencing token of an agent that runs with what held before a change."""
        return self.root / "restart-due"

    @property
    def client_seal(self) -> Path:
        """By which it is known whether a running agent was given other credentials."""
        return self.root / "client-seal.json"

    @property
    def teardown_due(self) -> Path:
        """Exists while an `endpoint_teardown` is owed (setup ran and no teardown yet)."""
        return self.root / "teardown-due"

    @property
    def journal(self) -> Path:
        """The journal's database."""
        return self.state / "journal.db"

    @property
    def journal_bodies(self) -> Path:
        """Bodies too large for the journal's database, one file each."""
        return self.state / "journal-bodies"

    @property
    def status_json(self) -> Path:
        """The agent's last word on itself, written atomically."""
        return self.state / "status.json"

    @property
    def blocks_file(self) -> Path:
        """What the endpoint has learned about failing blocks; survives restarts."""
        return self.state / "blocks.json"

    @property
    def start_slots(self) -> Path:
        """One small memory-mapped file per worker on this host: the tasks it has begun."""
        return self.state / "start-slots"

    @property
    def worker_sets(self) -> Path:
        """Packages to lend to other Pythons; one directory for all endpoints of the account."""
        return worker_sets(self.root.parent)

    @property
    def oversized_results(self) -> Path:
        """Results above `result_size_limit`, kept for their owner."""
        return self.run / "oversized_results"


def endpoint_root(base: Path, name: str) -> Path:
    """The directory of the endpoint called `name` below the user directory."""
    return base / name


def worker_sets(base: Path) -> Path:
    """The directory of the worker sets of this account, below the user directory."""
    return base / "worker-sets"


def profile_dirs(base: Path | None) -> tuple[Path, ...]:
    """The folders with profiles of this account and of this site, in the order they are asked.

    Args:
        base: The user directory; None leaves this account's out.
    """
    own = () if base is None else (base / "profiles",)
    return (*own, SITE_PROFILES)


def control_dir() -> Path:
    """The directory for sockets of this user: short, local, private (mode 0700).

    Never in the home directory: network file systems cannot hold sockets everybody can reach,
    and a socket path is limited to 108 bytes (unix(7)).
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "cep"
    import tempfile  # every command would pay for it

    return Path(tempfile.gettempdir()) / f"cep-{os.getuid()}"


def templates_dir() -> Path:
    """Return the folder with `configs/` and `systemd/`: in the installed package or a checkout.

    Raises:
        SoftwareError: Neither exists, so the installation is damaged.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "_templates", package.parent / "templates"):
        if (candidate / "configs").is_dir():
            return candidate
    raise SoftwareError(
        f"The templates that belong to cep were not found beside {package}.",
        hint="Install cep-endpoint again; the installation is damaged.",
    )
