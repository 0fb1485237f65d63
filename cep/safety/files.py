"""Files and directories that nobody else may change, and how to see that nobody else can.

Owns nothing; every function may be called from any thread. What counts as *others*: everybody
(the write bit for others), and each group but the user's own private one (its primary group, of
the user's own name, without further members: the scheme of Debian and RHEL, where homes may be
group-writable) and root's. A sticky directory such as /tmp is no danger to what is ours in it.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import IO

from cep.errors import CantCreate, CepError

PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600
_GUARDED = os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file of ours, mode 0600 whatever the umask; a symbolic link is not followed.

    Args:
        path: The file.
        flags: As for `os.open`; without O_CREAT the mode is left as it is.

    Raises:
        OSError: As `os.open`; ELOOP for a symbolic link.
    """
    descriptor = os.open(path, flags | _GUARDED, PRIVATE_FILE)
    if flags & os.O_CREAT:
        try:
            os.fchmod(descriptor, PRIVATE_FILE)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def append_text(path: str | os.PathLike[str]) -> IO[str]:
    """Open a file of ours to append text, as `open_private`."""
    descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return os.fdopen(descriptor, "a", encoding="utf-8")


def replace_text(path: Path, text: str, *, synced: bool = True) -> None:
    """Put a small file (0600) in a path's place: whoever reads sees the old or the new one whole.

    Args:
        path: Its directory exists.
        text: What it will hold.
        synced: It is on the disk before it takes the place, so that it outlives a power failure.

    Raises:
        OSError: It cannot be written; the old one stays, and nothing beside it.
    """
    import tempfile

    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            if synced:
                file.flush()
                os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_new(file: Path, data: bytes, *, again: bool = False) -> None:
    """Write a small file of ours, flushed, mode 0600 whatever the umask.

    Args:
        file: Its directory exists.
        data: What it will hold.
        again: It may be there, and is made anew.

    Raises:
        FileExistsError: It is there, and `again` is false.
        OSError: It cannot be written.
    """
    exclusive = 0 if again else os.O_EXCL
    if again:
        file.unlink(missing_ok=True)  # it may be linked under another name: leave that one alone
    flags = os.O_WRONLY | os.O_CREAT | exclusive | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(file, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_exclusively(file: Path, name: Path) -> None:
    """Give a finished file a second name that must be free.

    Raises:
        FileExistsError: It is not.
        OSError: It cannot be given one.
    """
    try:
        os.link(file, name)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        write_new(name, file.read_bytes())  # no hard links here: created exclusively, then filled


def writers(found: os.stat_result) -> str | None:
    """Say who beside the owner and root may write, or None when nobody may."""
    if found.st_mode & stat.S_IWOTH:
        return "everybody"
    if found.st_mode & stat.S_IWGRP and not _own_group(found.st_gid):
        return f"group {_group_name(found.st_gid)}"
    return None


def _own_group(gid: int) -> bool:
    """Whether a group is this user's private one, or root's without other members."""
    try:
        user = pwd.getpwuid(os.getuid())
        name, trusted = user.pw_name, {user.pw_name, "root"}
        group = grp.getgrgid(gid)
    except KeyError:
        return False  # an account or group without an entry: nobody can say who is in it
    private = gid == user.pw_gid and group.gr_name == name
    return (private or gid == 0) and trusted.issuperset(group.gr_mem)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def check_trusted(path: Path, kind: type[CepError], what: str, *, any_owner: bool = False) -> None:
    """See that only this user or root can change a file or directory; a missing one passes.

    Args:
        path: Configuration, template or credential.
        kind: Class of the error, which has the exit code.
        what: What it is, with its article, for the message.
        any_owner: It comes with the program, whose owner decides anyway what is run.

    Raises:
        CepError: Of the given kind: it belongs to somebody else, or others can write it.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise kind(f"{what} {path} cannot be looked at: {exc.strerror or exc}.") from exc
    user = os.getuid()
    if found.st_uid not in (user, 0) and not any_owner:
        raise kind(
            f"{what} {path} belongs to user {found.st_uid}, neither to you (user {user}) nor to "
            "root, so somebody else decides what it says.",
            hint=f"Look into it, then make it yours: sudo chown {user} {path}",
        )
    others = writers(found)
    if others is not None:
        raise kind(
            f"{what} {path} can be changed by {others}, who could run programs as you by it.",
            hint=f"Look into it, then run: chmod go-w {path}",
        )


def make_directory(directory: Path) -> None:
    """Make a directory (0700) with its parents if need be, and see that it is safely ours.

    One that exists keeps its mode: others may be let read it, since every file in it is 0600.

    Raises:
        CantCreate: It cannot be made, is not ours, can be changed by others, or lies where
            everybody can exchange it.
    """
    try:
        make_parents(directory)
        directory.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
        at_name = directory.lstat()
        found = directory.stat()
    except OSError as exc:
        raise CantCreate(
            f"The directory {directory} cannot be made: {exc.strerror or exc}."
        ) from exc
    user = os.getuid()
    if stat.S_ISLNK(at_name.st_mode) and at_name.st_uid not in (user, 0):
        raise CantCreate(
            f"{directory} is a symbolic link that belongs to user {at_name.st_uid}, not to you "
            f"(user {user}). Remove it, or choose another directory."
        )
    if not stat.S_ISDIR(found.st_mode):
        raise CantCreate(f"{directory} is not a directory.")
    if found.st_uid != user:
        raise CantCreate(
            f"The directory {directory} belongs to user {found.st_uid}, not to you (user {user}). "
            "Run the endpoint as its owner, or choose another directory."
        )
    check_writers(directory)
    check_way(directory)


def make_private(directory: Path) -> None:
    """Make a directory for sockets, or check that the one that is there is ours alone.

    Raises:
        CantCreate: It is a link, is not ours, lets others in, or lies where everybody can
            exchange it.
    """
    make_parents(directory)
    directory.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
    check_way(directory)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise CantCreate(
            f"The directory {directory} for sockets is not a directory of yours alone "
            "(mode 0700). Remove it or set XDG_RUNTIME_DIR."
        )


def make_parents(path: Path) -> None:
    """Make the missing directories above a path, each of mode 0700.

    `Path.mkdir(parents=True)` gives its mode to the last one only.
    """
    for parent in reversed(path.parents):
        if not parent.exists():
            parent.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)


def check_writers(directory: Path, *, sticky_is_fine: bool = False) -> None:
    """See that others cannot put files into a directory.

    Args:
        directory: It exists.
        sticky_is_fine: Only what is ours in it counts, and that a sticky directory protects.

    Raises:
        CantCreate: They can.
    """
    found = directory.stat()
    others = writers(found)
    if others is not None and not (sticky_is_fine and found.st_mode & stat.S_ISVTX):
        raise CantCreate(
            f"The directory {directory} can be changed by {others}, who could plant files in it.",
            hint=f"Look into it, then run: chmod go-w {directory}",
        )


def check_way(path: Path) -> None:
    """See that not everybody can exchange a directory on the way to this path.

    A parent that a group of colleagues can write, as project directories are, is let pass: what
    they could put in our place would belong to them, and is refused for that.

    Raises:
        CantCreate: A parent is writable by everybody and not sticky, or a link in such a place
            belongs to somebody else.
    """
    for parent in path.resolve().parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise CantCreate(
                f"{path} lies in {parent}, where everybody can rename and exchange it.",
                hint=f"Choose another directory, or have this run: chmod o-w {parent}",
            )
    for place in path.absolute().parents:
        _check_link(place)


def _check_link(place: Path) -> None:
    found = place.lstat()
    if not stat.S_ISLNK(found.st_mode) or found.st_uid in (os.getuid(), 0):
        return
    if place.parent.stat().st_mode & stat.S_IWOTH:
        raise CantCreate(
            f"{place} is a symbolic link that user {found.st_uid} put into a directory open to "
            "everybody. Choose a way without it."
        )
