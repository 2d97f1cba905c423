"""What the machine was like before the cluster, so that `down` can make it so again.

Some paths and kernel settings cannot be chosen: the kubelet and containerd create these folders and set these values
whatever their configuration says. `record` notes which were absent and what was set before anything is started;
`restore` removes the folders that were absent then, and sets the values back.
"""

from __future__ import annotations

import json
import pathlib
import shutil

from layout import Layout

FOLDERS = [
    pathlib.Path(path)
    for path in (
        "/run/containerd",
        "/var/lib/cni",
        "/var/lib/kubelet",
        "/var/log/containers",
        "/var/log/pods",
        "/opt/cni",
        "/opt/containerd",
        "/usr/libexec/kubernetes",
    )
]

FORWARD = "net/ipv4/ip_forward"
# A packet from pod to pod through a Service stays on the bridge, and would pass kube-proxy's rules by.
BRIDGED = "net/bridge/bridge-nf-call-iptables"
SETTINGS = [
    FORWARD,
    BRIDGED,
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
]


def setting(name: str) -> pathlib.Path:
    """Where the kernel shows one of its settings."""
    return pathlib.Path("/proc/sys") / name


def record(layout: Layout) -> None:
    """Notes what is absent and what is set; keeps an older note, for it is nearer to the truth."""
    if layout.footprint.exists():
        return
    note = {
        "absent": [str(folder) for folder in FOLDERS if not folder.exists()],
        "settings": {name: setting(name).read_text().strip() for name in SETTINGS if setting(name).exists()},
    }
    unfinished = layout.footprint.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(note, indent=2))
    unfinished.rename(layout.footprint)


def restore(layout: Layout) -> None:
    """Removes folders and sets values back. No process of the cluster may live, and nothing be mounted there."""
    if not layout.footprint.exists():
        return
    note = json.loads(layout.footprint.read_text())
    for folder in note["absent"]:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in note["settings"].items():
        if setting(name).read_text().strip() != value:
            setting(name).write_text(value)


def remains(layout: Layout) -> list[str]:
    """The folders that were absent before and are there."""
    if not layout.footprint.exists():
        return []
    return [folder for folder in json.loads(layout.footprint.read_text())["absent"] if pathlib.Path(folder).exists()]
