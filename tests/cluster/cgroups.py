"""The cgroup that everything in pods belongs to, in each hierarchy of the machine, version 1 or 2.

The kubelet makes its own cgroups below it. Since the name is ours, whatever process is found in it was started for a
pod, which is how a clean-up finds the processes of a crashed cluster.
"""

from __future__ import annotations

import os
import pathlib

import processes
from talk import Failure, TimedOut, until

NAME = "millrace-cluster"
CONTROLLERS = "+cpu +cpuset +io +memory +pids"


def _hierarchies() -> list[tuple[pathlib.Path, str]]:
    """Where each hierarchy is mounted, and the kind of file system that it is."""
    mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
    seen = {pathlib.Path(mount[1]): mount[2] for mount in mounts if mount[2] in ("cgroup", "cgroup2")}
    return list(seen.items())


def make() -> None:
    """Makes the cgroup in every hierarchy."""
    for root, kind in _hierarchies():
        group = root / NAME
        if kind == "cgroup2" and (there := set((root / "cgroup.controllers").read_text().split())):
            wanted = [controller for controller in CONTROLLERS.split() if controller[1:] in there]
            (root / "cgroup.subtree_control").write_text(" ".join(wanted))
        group.mkdir(exist_ok=True)
        # In version 1 a group of cpuset starts with no processor and no memory, and takes no process then.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if kind == "cgroup" and (group / file).exists() and not (group / file).read_text().strip():
                (group / file).write_text((root / file).read_text())


def _groups() -> list[pathlib.Path]:
    """Our cgroup and those in it, in every hierarchy, the innermost first."""
    found = []
    for root, _ in _hierarchies():
        found += [pathlib.Path(folder) for folder, _, _ in os.walk(root / NAME, topdown=False)]
    return found


def members() -> list[processes.Identity]:
    """The processes of pods."""
    numbers: set[int] = set()
    for group in _groups():
        try:
            numbers.update(int(line) for line in (group / "cgroup.procs").read_text().split())
        except OSError:
            continue  # It went while we looked.
    return [identity for number in numbers if (identity := processes.identify(number)) is not None]


def remove() -> None:
    """Kills what is in the cgroup, and removes it."""
    until("the processes of pods to end", _killed, 30)
    try:
        until("the cgroups of pods to be empty", _removed, 10)
    except TimedOut as failure:
        raise Failure(f"{failure}; left are {', '.join(map(str, _groups()))}") from None


def _killed() -> bool:
    # What is killed while it forks may leave a child, so only finding none is the end.
    found = members()
    processes.end(found, 0)
    return not found


def _removed() -> bool:
    for group in _groups():
        group.rmdir()
    return not _groups()


def remains() -> list[str]:
    """The cgroups that are there."""
    return [f"cgroup {root / NAME}" for root, _ in _hierarchies() if (root / NAME).exists()]
