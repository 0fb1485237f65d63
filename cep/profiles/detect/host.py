"""This host itself: cores, memory, GPUs, Python, modules, container programs.

Source of the options: nvidia-smi(1), rocm-smi --help (read, not recorded); the others recorded.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from cep.profiles.detect.commands import Site
from cep.profiles.detect.facts import Host, Tool

CONTAINERS = ("docker", "podman", "podman-hpc", "apptainer", "singularity")
NVIDIA = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
ROCM = ("rocm-smi", "--showproductname", "--csv")
#: Where distributions and Lmod put the file that defines `module`, as the profiles' own lines look.
MODULE_FILES = (
    "/etc/profile.d/lmod.sh",
    "/etc/profile.d/z00_lmod.sh",
    "/etc/profile.d/modules.sh",
    "/usr/share/lmod/lmod/init/bash",
    "/usr/share/modules/init/bash",
    "/usr/share/Modules/init/bash",
)


def find(site: Site) -> Host:
    """Look at this host."""
    import psutil

    return Host(
        name=platform.node(),
        cores=len(os.sched_getaffinity(0)),
        memory_mb=psutil.virtual_memory().total // 2**20,
        gpus=gpus(site),
        python=Tool("python", sys.executable, platform.python_version()),
        modules=modules(site, os.environ, tuple(f for f in MODULE_FILES if Path(f).is_file())),
        containers=tuple(tool for name in CONTAINERS if (tool := container(site, name))),
    )


def gpus(site: Site) -> tuple[str, ...]:
    """A phrase for each GPU of this host."""
    if site.which("nvidia-smi"):
        answer = site.ask(*NVIDIA)
        found = [line.strip() for line in answer.out.splitlines() if line.strip()]
        if answer.answered and found:
            return tuple(found)
    if site.which("rocm-smi"):
        answer = site.ask(*ROCM)
        if answer.answered:
            return rocm_gpus(answer.out)
    return ()


def rocm_gpus(text: str) -> tuple[str, ...]:
    """The GPUs of `rocm-smi --showproductname --csv`."""
    lines = [line.split(",") for line in text.splitlines() if "," in line]
    return tuple(parts[1].strip() for parts in lines if parts[0].startswith("card"))


def modules(site: Site, environ: Mapping[str, str], files: tuple[str, ...]) -> Tool | None:
    """Lmod or environment-modules; None where neither is.

    Args:
        site: The host.
        environ: Variables, of which a login shell has set some.
        files: Files that define `module` and are there.
    """
    lmod, plain = environ.get("LMOD_PKG"), environ.get("MODULESHOME")
    path = next(iter(files), "") or (f"{lmod or plain}/init/bash" if lmod or plain else "")
    if not path:
        return None
    answer = site.ask("bash", "-c", '. "$1" && module --version', "bash", path)
    text = answer.err + answer.out
    found = re.search(r"Modules Release (\S+)|Version (\d\S+)", text)
    name = "Lmod" if found and found[2] else "environment-modules" if found else "module"
    trouble = "" if answer.answered else answer.words
    return Tool(name, path, (found[1] or found[2]) if found else "", trouble)


def container(site: Site, name: str) -> Tool | None:
    """A program that runs containers; None where it is not."""
    path = site.which(name)
    if path is None:
        return None
    answer = site.ask(name, "--version")
    version = re.search(r"\d+(?:\.\d+)+\S*", answer.out)
    trouble = answer.words
    if name == "docker" and not trouble:
        # The program alone runs nothing: it needs an engine that lets this account in.
        trouble = site.ask("docker", "version", "--format", "{{.Server.Version}}").words
    return Tool(name, path, version[0].rstrip(",") if version else "", trouble)
