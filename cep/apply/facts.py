"""What a unit needs to know of this host, this installation and this endpoint; changes nothing."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cep.errors import ConfigError, DataError, InputMissing, NotAllowed, UsageError
from cep.paths import EndpointPaths

if TYPE_CHECKING:
    from cep.config.settings import EndpointSettings

# What a service finds on any system, after our own programs.
_SEARCH_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
# Programs that endpoints call and that sites keep in directories of their own.
_SITE_PROGRAMS = (
    "sbatch", "qsub", "bsub", "condor_submit", "flux",
    "apptainer", "singularity", "podman", "docker",
)  # fmt: skip
_LOGIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Account:
    """Who the service runs as."""

    name: str
    uid: int
    gid: int
    group: str
    home: Path


def account_of(root: Path, run_as: str | None) -> Account:
    """The account that an endpoint's service runs as: the owner of its directory.

    Raises:
        InputMissing: There is no such account.
        UsageError: The account is not the owner, or it is root and nobody said so.
    """
    owner = root.stat().st_uid
    try:
        found = pwd.getpwuid(owner) if run_as is None else pwd.getpwnam(run_as)
    except KeyError as exc:
        raise InputMissing(f"There is no account {run_as or owner} on this host.") from exc
    if found.pw_uid != owner:
        raise UsageError(
            f"The directory {root} belongs to uid {owner}, so an agent of {found.pw_name} could "
            "not use it."
        )
    if found.pw_uid == 0 and run_as is None:
        raise UsageError(
            f"The endpoint in {root} is root's, and every task it receives would run as root.",
            hint="If that is meant: --run-as root",
        )
    return _account(found)


def account_named(name: str) -> Account:
    """The account of this name; nothing of its home is looked at.

    Raises:
        InputMissing: There is no such account.
    """
    try:
        return _account(pwd.getpwnam(name))
    except KeyError as exc:
        raise InputMissing(f"There is no account {name} on this host.") from exc


def _account(found: pwd.struct_passwd) -> Account:
    try:
        group = grp.getgrgid(found.pw_gid).gr_name
    except KeyError:
        group = str(found.pw_gid)
    return Account(found.pw_name, found.pw_uid, found.pw_gid, group, Path(found.pw_dir))


def base_under_sudo(base: Path, *, chosen: bool) -> Path:
    """The user directory that a person means who calls us by sudo: theirs, not root's.

    Args:
        base: The user directory as usual.
        chosen: It was named, by an option or a variable.
    """
    uid = os.environ.get("SUDO_UID", "")
    if chosen or os.getuid() != 0 or not uid.isdigit() or uid == "0":
        return base
    try:
        return Path(pwd.getpwuid(int(uid)).pw_dir) / ".globus_compute"
    except KeyError:
        return base


def program() -> tuple[str, ...]:
    """How to call this installation from anywhere, by absolute paths."""
    beside = Path(sys.executable).absolute().with_name("cep")
    if beside.is_file():
        return (str(beside),)
    return (str(Path(sys.executable).absolute()), "-m", "cep")


def search_path(kept: Sequence[str] = ()) -> str:
    """`PATH` for the service: this installation, the system, and where the site keeps its own.

    Args:
        kept: Directories of the site that the unit has already. They stay, and stay first: what
            is found depends on who calls, and the unit must not.
    """
    folders = [str(Path(sys.executable).absolute().parent), *_SEARCH_PATH, *kept]
    for name in _SITE_PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            folders.append(str(Path(found).absolute().parent))
    return ":".join(dict.fromkeys(folders))


def site_folders(unit: str) -> tuple[str, ...]:
    """The directories of the site in the `PATH` of a unit file that we wrote.

    The first is an installation's own, perhaps of an earlier release.
    """
    line = re.search(r'^Environment=(?:"PATH=((?:[^"\\]|\\.)*)"|PATH=(\S*))$', unit, re.M)
    if line is None:
        return ()
    quoted, plain = line.groups()
    text = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    folders = text.replace("%%", "%").split(":")[1:]
    return tuple(one for one in folders if one and one not in _SEARCH_PATH)


def host_name() -> str:
    """This host's name, as systemd's ConditionHost= compares it."""
    return socket.gethostname()


def check_hardening(settings: EndpointSettings, level: str) -> None:
    """Refuse a level under which the endpoint's own tools cannot work.

    Raises:
        ConfigError: It has to run programs with the set-user-id bit, which the level forbids.
    """
    provider = getattr(getattr(settings.engine, "provider", None), "type", "")
    container = getattr(settings.engine, "container_type", None)
    needs = None
    if provider in ("PBSProProvider", "TorqueProvider"):
        needs = f"The commands of {provider} need the set-user-id bit (pbs_iff)"
    elif container in ("apptainer", "singularity"):
        needs = f"Containers of type {container} may need the set-user-id bit"
    if level != "compat" and needs:
        raise ConfigError(
            f"{needs}, which --hardening {level} takes away.", hint="Use: --hardening compat"
        )
    if level == "strict" and provider:
        raise ConfigError(
            f"--hardening strict is for engines without blocks, not for {provider}.",
            hint="Use: --hardening standard",
        )


def variables_in(file: Path) -> dict[str, str]:
    """Read `NAME=value` lines, also with `export` and quotes, as `cep hub env` prints them.

    Raises:
        InputMissing: The file cannot be read.
        DataError: It is no such file.
        NotAllowed: Others can read it.
    """
    import shlex

    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="utf-8")
        words = shlex.split(text, comments=True)
    except OSError as exc:
        raise InputMissing(f"{file} cannot be read: {exc.strerror}.") from exc
    except ValueError as exc:
        raise DataError(f"{file} does not consist of NAME=value lines: {exc}.") from exc
    if mode & 0o077:
        raise NotAllowed(
            f"Others can read {file}, which is to hold a secret.", hint=f"Run: chmod 600 {file}"
        )
    return dict(word.split("=", 1) for word in words if "=" in word)


def becoming(who: Account) -> dict[str, Any]:
    """Arguments for `subprocess` by which root starts a program as an account."""
    return {
        "env": {"HOME": str(who.home), "PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"},
        "cwd": "/",
        "user": who.uid,
        "group": who.gid,
        "extra_groups": os.getgrouplist(who.name, who.gid),
    }


def check_login(base: Path, settings: EndpointSettings, who: Account, name: str) -> None:
    """Make sure that the account is logged in: a service cannot ask anybody.

    Raises:
        NotAllowed: It is not.
    """
    if who.uid == os.getuid():
        there = has_login(base, settings)
    else:  # the token store is the account's own; nothing in there may become root's
        done = subprocess.run(
            [sys.executable, "-m", "cep.apply.login", str(base), name],
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_LOGIN_S,
            **becoming(who),
        )
        there = done.returncode == 0
    if not there:
        raise NotAllowed(
            f"{who.name} is not logged in, and a service cannot ask for a login.",
            hint="Log in first: cep login; or give a client's id and secret: --credentials FILE",
        )


def has_login(base: Path, settings: EndpointSettings) -> bool:
    """Whether a login for the endpoint's service is stored. Asks nobody."""
    from cep.service.address import resolve_service
    from cep.service.auth import Login

    if not (base / "storage.db").exists():
        return False
    with Login(resolve_service(settings), base=base, interactive=False) as login:
        return not login.needed()


def places(root: Path, settings: EndpointSettings) -> EndpointPaths:
    """The endpoint's files."""
    return EndpointPaths.of(root, run_dir=settings.run_dir, state_dir=settings.state_dir)
