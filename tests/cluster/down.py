"""Stopping a cluster and removing all it left on the machine, whole or crashed, whatever of it still lives.

There is one way for both, which needs none of the cluster's parts to work: end the processes that were started, kill
those in pods' cgroup and containerd's shims, then unmount, remove links, tables, cgroups and folders, and look whether
anything remains. A process is ours by its pid file, by our cgroup, or as a shim by our socket among its arguments.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess

import cgroups
import footprint
import network
import processes
from layout import Layout
from talk import Failure, say, step, until


def down(layout: Layout) -> None:
    """Stops the cluster; says so where there is none."""
    if not remains(layout):
        say("No cluster is up")
        return
    with step("Take the cluster down"):
        clean(layout)


def is_ours(layout: Layout) -> bool:
    """Whether a folder may be removed: it was made by `up`, or has nothing in it."""
    names = {entry.name for entry in layout.folder.iterdir()} if layout.folder.is_dir() else set()
    return layout.footprint.name in names or names <= {layout.footprint.with_suffix(".unfinished").name}


def clean(layout: Layout) -> None:
    """Removes everything, and fails with a list of what it could not remove."""
    if not is_ours(layout):
        raise Failure(f"{layout.folder} holds files that are no cluster's: nothing is removed")
    # From now on there is nothing to mend.
    layout.complete.unlink(missing_ok=True)
    running = processes.all_recorded(layout)
    # First who would start anew what the rest loses; containerd last, since the kubelet speaks to it.
    containerd = running.pop("containerd", None)
    if kubelet := running.pop("kubelet", None):
        processes.end([kubelet], 2)
    processes.end(list(running.values()), 2)
    if containerd:
        processes.end([containerd], 2)
    cgroups.remove()
    processes.end(_shims(layout), 0)
    _remove_shims_sockets(layout)
    for mount in reversed(_mounts(layout)):
        # One that is busy is taken out of sight now, and goes when the last user of it has.
        if subprocess.run(["umount", mount], capture_output=True).returncode != 0:
            network.run("umount", "--lazy", mount)
    network.remove(layout)
    if left := [what for what in remains(layout) if not what.startswith("folder ")]:
        raise Failure(f"these remain: {', '.join(left)}")
    footprint.restore(layout)
    _remove_folder(layout)
    # Links go after the pods' network namespaces, in the kernel's own time.
    until("nothing to remain", lambda: not remains(layout), 10)


def remains(layout: Layout) -> list[str]:
    """What of a cluster is on the machine: all of it while it runs, nothing after `down`."""
    found = [f"process {identity.pid} ({name})" for name, identity in processes.all_recorded(layout).items()]
    found += [f"process {identity.pid} (a shim)" for identity in _shims(layout)]
    found += [f"process {identity.pid} (in a pod)" for identity in cgroups.members()]
    found += [f"mount {mount}" for mount in _mounts(layout)]
    found += network.remains(layout)
    found += cgroups.remains()
    found += [f"folder {folder}" for folder in footprint.remains(layout)]
    if layout.folder.exists():
        found.append(f"folder {layout.folder}")
    return found


def _remove_folder(layout: Layout) -> None:
    if not layout.folder.exists():
        return
    for entry in layout.folder.iterdir():
        # It shows that the folder is ours, so it goes last, lest an interrupted removal could not be continued.
        if entry != layout.footprint:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    layout.footprint.unlink(missing_ok=True)
    layout.folder.rmdir()


def _shims(layout: Layout) -> list[processes.Identity]:
    return processes.of_command([b"-address", os.fsencode(layout.containerd_socket)])


def _remove_shims_sockets(layout: Layout) -> None:
    # They lie outside of our folder, and each shim's notes tell where.
    for note in layout.containerd.glob("state/io.containerd.runtime.v2.task/*/*/address"):
        pathlib.Path(note.read_text().removeprefix("unix://")).unlink(missing_ok=True)


def _mounts(layout: Layout) -> list[str]:
    """What is mounted in the folder, in the order in which it was mounted."""
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        # A space is written as \040, and the like.
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4])
        if pathlib.Path(place).is_relative_to(layout.folder):
            found.append(place)
    return found
