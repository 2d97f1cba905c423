"""Where things are: the folders of one cluster, and the addresses and ports of every cluster.

Everything a running cluster writes is below one folder, `Layout.folder`, so that removing it leaves nothing. What must
survive it, the built binaries, is below `CACHE`. A machine carries one cluster at a time, since the bridge, the
addresses and the ports are fixed.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("CACHE") or pathlib.Path.home() / ".cache" / "millrace").absolute() / "cluster"

NODE = "node-1"
BRIDGE = "millrace0"
# The bridge's address is the node's: the API server, the kubelet and DNS listen on it, and pods reach them there.
NODE_ADDRESS = "10.244.0.1"
PODS = "10.244.0.0/24"
SERVICES = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
DOMAIN = "cluster.local"

API_PORT = 6443
KUBELET_PORT = 10250
ETCD = "http://127.0.0.1:2379"
ETCD_PEER = "http://127.0.0.1:2380"
# What is asked whether a component is ready, on loopback.
CONTROLLER_MANAGER_PORT = 10257
SCHEDULER_PORT = 10259
KUBELET_HEALTH_PORT = 10248
PROXY_HEALTH_PORT = 10256
PROXY_METRICS_PORT = 10249
DNS_READY_PORT = 8181

API_SERVER = f"https://{NODE_ADDRESS}:{API_PORT}"

PAUSE_IMAGE = "millrace.test/pause:1"
BUSYBOX_IMAGE = "millrace.test/busybox:1"

# A Unix socket's path has at most 107 bytes, and the longest one that we make is this much longer than the folder.
LONGEST_FOLDER = 107 - len("/containerd/containerd.sock.ttrpc")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The folders and files of one cluster."""

    folder: pathlib.Path

    def __post_init__(self) -> None:
        if len(str(self.folder)) > LONGEST_FOLDER:
            raise ValueError(f"the path {self.folder} is too long: sockets in it allow {LONGEST_FOLDER} characters")

    @property
    def kubeconfig(self) -> pathlib.Path:
        """What `kubectl` reads, with all rights."""
        return self.folder / "kubeconfig"

    @property
    def footprint(self) -> pathlib.Path:
        """What the machine was like before: see `footprint.py`."""
        return self.folder / "footprint.json"

    @property
    def complete(self) -> pathlib.Path:
        """An empty file: the cluster has been whole once."""
        return self.folder / "complete"

    @property
    def pki(self) -> pathlib.Path:
        """Keys and certificates."""
        return self.folder / "pki"

    @property
    def config(self) -> pathlib.Path:
        """Configuration files and kubeconfigs of the components."""
        return self.folder / "config"

    @property
    def logs(self) -> pathlib.Path:
        """A log for each component."""
        return self.folder / "logs"

    @property
    def pids(self) -> pathlib.Path:
        """A file for each process that was started: see `processes.py`."""
        return self.folder / "pids"

    @property
    def images(self) -> pathlib.Path:
        """Images on their way into containerd."""
        return self.folder / "images"

    @property
    def etcd(self) -> pathlib.Path:
        """The cluster's objects."""
        return self.folder / "etcd"

    @property
    def kubelet(self) -> pathlib.Path:
        """The kubelet's root, where volumes are mounted for pods."""
        return self.folder / "kubelet"

    @property
    def pod_logs(self) -> pathlib.Path:
        """What containers print."""
        return self.folder / "pod-logs"

    @property
    def volumes(self) -> pathlib.Path:
        """What PersistentVolumes hold."""
        return self.folder / "volumes"

    @property
    def containerd(self) -> pathlib.Path:
        """The root, the state and the socket of containerd."""
        return self.folder / "containerd"

    @property
    def containerd_socket(self) -> pathlib.Path:
        """Where `ctr` and the kubelet find containerd."""
        return self.containerd / "containerd.sock"

    @property
    def cni(self) -> pathlib.Path:
        """The pod network's configuration and the addresses that were given out."""
        return self.folder / "cni"

    def log(self, name: str) -> pathlib.Path:
        """The log of a component."""
        return self.logs / f"{name}.log"


def default() -> Layout:
    """The cluster that is meant where no folder is named."""
    return Layout((CACHE / "run").resolve())
