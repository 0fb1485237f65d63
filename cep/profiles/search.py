"""Where profiles and presets are looked for: one file at a time, the first folder that has it wins.

So a site can replace a single template, schema or partial, or add a preset, and leave the rest to
what is shipped. What others can change is refused, since it decides what is run. Reads folders
only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cep import paths
from cep.errors import ConfigError, InputMissing
from cep.safety.files import check_trusted

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
BUILT_IN = "built in"


@dataclass(frozen=True, slots=True)
class Found:
    """A file and which folder of the search path had it.

    Attributes:
        path: The file.
        origin: `built in`, or the folder.
    """

    path: Path
    origin: str


@dataclass(frozen=True, slots=True)
class SearchPath:
    """The folders in their order, each with what to call it."""

    folders: tuple[tuple[str, Path], ...]

    @classmethod
    def of(cls, base: Path | None = None, extra: str | None = None) -> SearchPath:
        """The usual folders.

        Args:
            base: The user directory, whose `profiles` folder is asked; None for none.
            extra: The value of `--profile-dir`, asked first.

        Raises:
            InputMissing: `extra` is no folder.
        """
        folders: list[tuple[str, Path]] = []
        if extra is not None:
            folder = Path(extra).expanduser()
            if not folder.is_dir():
                raise InputMissing(f"There is no folder {folder}, which --profile-dir names.")
            folders.append((str(folder), folder))
        folders += [(str(folder), folder) for folder in paths.profile_dirs(base)]
        folders.append((BUILT_IN, paths.templates_dir() / "configs"))
        return cls(tuple(folders))

    def find(self, name: str) -> Found | None:
        """The first file of this name; a name may have one folder in front (`sites/x.yaml`).

        Raises:
            ConfigError: Others than this user and root can change the file or exchange it.
        """
        if not all(_PLAIN.fullmatch(part) for part in name.split("/")):
            return None
        for origin, folder in self.folders:
            if (folder / name).is_file():
                _check(folder, name, shipped=origin == BUILT_IN)
                return Found(folder / name, origin)
        return None

    def names(self, suffix: str, under: str = "") -> list[str]:
        """The names of all files with a suffix, without it; partials (`_...`) are none."""
        found = {
            path.name[: -len(suffix)]
            for _, folder in self.folders
            for path in (folder / under).glob(f"*{suffix}")
            if _PLAIN.fullmatch(path.name) and not path.name.startswith("_")
        }
        return sorted(found)


def _check(folder: Path, name: str, *, shipped: bool) -> None:
    path = folder / name
    for place in dict.fromkeys((folder, path.parent)):
        check_trusted(place, ConfigError, "The folder of profiles", any_owner=shipped)
    check_trusted(path, ConfigError, "The profile's file", any_owner=shipped)
