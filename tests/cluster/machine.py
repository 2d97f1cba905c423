"""A picture of the machine, taken before and after a cluster, to show that it leaves nothing.

It looks with other eyes than `down` does: at everything there is, not at what we know to be ours.
"""

from __future__ import annotations

import json
import pathlib

import footprint
import network
import processes
from layout import CACHE, Layout


def picture(layout: Layout) -> set[str]:
    """What is there that a cluster could have left."""
    seen = {f"mount {line.split()[1]}" for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()}
    seen |= {f"link {link['ifname']}" for link in json.loads(network.run("ip", "-json", "link", "show"))}
    seen |= {f"network namespace {line.split()[0]}" for line in network.run("ip", "netns", "list").splitlines()}
    seen |= {f"route {line}" for line in network.run("ip", "route", "show", "table", "all").splitlines()}
    seen |= {f"nftables {line}" for line in network.run("nft", "list", "tables").splitlines()}
    for root in pathlib.Path("/sys/fs/cgroup").glob("*/"):
        seen |= {f"cgroup {folder}" for folder in (root, *root.glob("*/"))}
    for name in footprint.SETTINGS:
        if footprint.setting(name).exists():
            seen.add(f"setting {name} = {footprint.setting(name).read_text().strip()}")
    for folder in (*footprint.FOLDERS, layout.folder, pathlib.Path.home() / ".kube"):
        if folder.exists():
            seen.add(f"folder {folder}")
    seen |= {f"socket {line.split()[-1]}" for line in _sockets() if line.split()[-1].startswith("/")}
    seen |= {f"listener {port}" for port in _listeners()}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        alive = processes.identify(int(folder.name)) is not None
        named = any(mark in command for mark in (str(layout.folder), str(CACHE / "bin"), "containerd"))
        # The command that takes the picture may name the folder itself.
        itself = "tests/cluster" in command and "serve-volumes" not in command
        if alive and named and not itself:
            seen.add(f"process {folder.name}: {command}")
    return seen


def _sockets() -> list[str]:
    lines = pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]
    return [line for line in lines if "containerd" in line or "kubelet" in line]


def _listeners() -> set[int]:
    """The ports of TCP that something listens on at loopback's or the bridge's address."""
    found = set()
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in pathlib.Path(file).read_text().splitlines()[1:]:
            _, address, _, state, *_ = line.split()
            port = int(address.rpartition(":")[2], 16)
            if state == "0A" and port in PORTS:
                found.add(port)
    return found


PORTS = {2379, 2380, 6443, 8181, 10248, 10249, 10250, 10256, 10257, 10259}
