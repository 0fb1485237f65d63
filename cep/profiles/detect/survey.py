"""Look at the whole site from this host. Blocks until each command has answered or timed out."""

from __future__ import annotations

from cep.profiles.detect import host, network, others, pbs, slurm
from cep.profiles.detect.commands import Site
from cep.profiles.detect.facts import Facts, Scheduler


def scheduler_of(site: Site, profile: str) -> Scheduler | None:
    """Ask the one scheduler that a profile is for; None where it is not, or for no scheduler."""
    if profile in ("pbs", "torque"):
        found = pbs.find(site, None)
        return found if found is not None and found.profile == profile else None
    finders = {
        "slurm": slurm.find,
        "lsf": others.find_lsf,
        "gridengine": others.find_gridengine,
        "htcondor": others.find_htcondor,
    }
    return finders[profile](site) if profile in finders else None


def survey(site: Site) -> Facts:
    """Find out everything that can be found out without submitting anything."""
    of_slurm = slurm.find(site)
    found: list[Scheduler | None] = [
        of_slurm,
        pbs.find(site, of_slurm),
        others.find_lsf(site),
        others.find_gridengine(site),
        others.find_htcondor(site),
    ]
    schedulers = tuple(one for one in found if one is not None)
    nodes = [node for one in schedulers for node in one.nodes if not one.stands_for]
    return Facts(host.find(site), schedulers, network.find(site, nodes))
