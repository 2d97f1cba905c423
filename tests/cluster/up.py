"""Starting a cluster: from a bare machine to a node that is Ready and answers for its DNS and its volumes.

`up` may be called at any time. On a cluster that is whole it does nothing; where some parts of one have stopped it
starts these; what a crashed run left, or a start that did not end, is removed first; and where the environment names
another cluster (`KUBECONFIG`), that one is checked and used instead.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterator

import certificates
import cgroups
import components
import configuration
import down
import footprint
import images
import layout as at
import network
import packages
import processes
import services
from api import Api
from layout import Layout
from talk import Failure, say, step, until

ROOT_NEEDED = "a cluster needs root: build its parts as you are (`make cluster-build`), then run this with `sudo -E`"


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Held by who changes the cluster: one at a time on a machine."""
    at.CACHE.mkdir(parents=True, exist_ok=True)
    with (at.CACHE / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Wait for another command to finish with the cluster")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def other_cluster(layout: Layout) -> str | None:
    """The environment's KUBECONFIG, unless it is this cluster's own."""
    named = os.environ.get("KUBECONFIG", "")
    return named if named and pathlib.Path(named).absolute() != layout.kubeconfig else None


def kubectl(layout: Layout, *arguments: str, kubeconfig: str | None = None) -> list[str]:
    """The command for `kubectl`, at this cluster unless another one is named."""
    built = components.binary("kubectl")
    program = str(built) if built.exists() else (shutil.which("kubectl") or "kubectl")
    # What it remembers of one cluster would be wrong of the next one, which has the same address.
    remembers = [f"--cache-dir={layout.folder}/kubectl-cache"] if not kubeconfig else []
    return [program, f"--kubeconfig={kubeconfig or layout.kubeconfig}", *remembers, *arguments]


def up(layout: Layout) -> None:
    """Sees to it that there is a cluster."""
    if other := other_cluster(layout):
        _check(layout, other)
        return
    if os.geteuid() != 0:
        raise Failure(ROOT_NEEDED)
    packages.install()
    components.build()
    if whole(layout):
        say("The cluster is up already")
    else:
        mendable = layout.complete.exists() and processes.all_recorded(layout)
        if not mendable:
            _clear_the_way(layout)
        started = time.monotonic()
        try:
            _mend(layout) if mendable else _start(layout)
        except Failure as failure:
            raise Failure(f"{failure}\nLogs are in {layout.logs}; `down` removes what was started") from failure
        say(f"The cluster is up after {time.monotonic() - started:.1f} s")
    print(f"export KUBECONFIG={layout.kubeconfig}")


def whole(layout: Layout) -> bool:
    """Whether every part runs and is ready."""
    return layout.footprint.exists() and all(services.ready(layout, name) for name in services.SERVICES)


def _check(layout: Layout, kubeconfig: str) -> None:
    def ask(*arguments: str) -> str:
        done = subprocess.run(kubectl(layout, *arguments, kubeconfig=kubeconfig), capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"the cluster that KUBECONFIG names ({kubeconfig}) is not well: {done.stderr.strip()}")
        return done.stdout

    ask("get", "--raw", "/readyz")
    ready = '{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}'
    nodes = ask("get", "nodes", "-o", f"jsonpath={ready}").split()
    if not nodes or not all(node.endswith("=True") for node in nodes):
        raise Failure(f"the cluster that KUBECONFIG names ({kubeconfig}) has nodes that are not Ready: {nodes}")
    say(f"Use the cluster that KUBECONFIG names ({kubeconfig}): {len(nodes)} nodes, all Ready; none is started here")


def _clear_the_way(layout: Layout) -> None:
    owner = network.owner()
    if owner == "":
        raise Failure(f"there is a link {at.BRIDGE} that no cluster of ours made")
    if owner not in (None, str(layout.folder)):
        raise Failure(f"another cluster's folder is {owner}: take it down first, with --dir {owner} down")
    if down.remains(layout):
        with step("Clean up after a run that did not end well"):
            down.clean(layout)


def _mend(layout: Layout) -> None:
    stopped = [name for name in services.SERVICES if processes.recorded(layout, name) is None]
    if stopped:
        say(f"Start what has stopped: {', '.join(stopped)}")
    for name in services.SERVICES:
        services.start(layout, name)
        services.wait_ready(layout, name)


def _start(layout: Layout) -> None:
    layout.folder.mkdir(parents=True, exist_ok=True)
    footprint.record(layout)
    for folder in (layout.logs, layout.pids, layout.config, layout.images, layout.volumes, layout.kubelet):
        folder.mkdir()
    with step("Keys, certificates and configuration"):
        certificates.make(layout)
        configuration.write(layout)
    with step("Network and cgroups"):
        network.make(layout)
        cgroups.make()
    with step("containerd, etcd and the API server"), concurrent.futures.ThreadPoolExecutor() as pool:
        for name in ("containerd", "etcd"):
            services.start(layout, name)
        services.wait_ready(layout, "etcd")
        services.start(layout, "kube-apiserver")
        # The API server takes seconds to start, in which the images can come in.
        loading = pool.submit(_load_images, layout)
        services.wait_ready(layout, "kube-apiserver")
        loading.result()
    with step("Node, controllers, DNS and volumes"):
        _own_by_the_user(layout)
        rest = [name for name in services.SERVICES if processes.recorded(layout, name) is None]
        for name in rest:
            services.start(layout, name)
        applied = subprocess.run(
            kubectl(layout, "apply", "--server-side", "-f", str(at.HERE / "bootstrap.yaml")),
            capture_output=True,
            text=True,
        )
        if applied.returncode != 0:
            raise Failure(f"bootstrap.yaml is refused: {applied.stderr.strip()}")
        for name in rest:
            services.wait_ready(layout, name)
        # No pod can be made in a namespace before this account is there.
        api = Api(layout, "admin")
        until("the default ServiceAccount", lambda: api.get("/api/v1/namespaces/default/serviceaccounts/default"), 60)
    layout.complete.touch()


def _load_images(layout: Layout) -> None:
    services.wait_ready(layout, "containerd")
    for name, entrypoint in (
        (at.PAUSE_IMAGE, ["/bin/busybox", "sleep", "2147483647"]),
        (at.BUSYBOX_IMAGE, []),
    ):
        tar = layout.images / f"{name.rpartition('/')[2].replace(':', '-')}.tar"
        images.write(tar, name, images.of_busybox(), entrypoint)
        images.load(layout, name, tar)
        tar.unlink()


def _own_by_the_user(layout: Layout) -> None:
    """Lets the user who called `sudo` read the kubeconfig."""
    if user := os.environ.get("SUDO_UID"):
        os.chown(layout.kubeconfig, int(user), -1)
