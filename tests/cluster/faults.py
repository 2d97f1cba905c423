"""What goes wrong in tests: components that stop or are killed and start again, containers that freeze.

Containers are found through containerd, not through the API server, which may be the one that is away.
"""

from __future__ import annotations

import signal
import subprocess

import processes
import services
from layout import Layout
from talk import Failure

FREEZE = signal.SIGSTOP
THAW = signal.SIGCONT


def component(name: str) -> str:
    """The component that a person means: `apiserver` is `kube-apiserver`."""
    for candidate in (name, f"kube-{name}"):
        if candidate in services.SERVICES:
            return candidate
    raise Failure(f"there is no component {name}; there are {', '.join(services.SERVICES)}")


def stop(layout: Layout, name: str) -> None:
    """Ends a component as its machine's shutdown would, and waits until it has ended."""
    if processes.recorded(layout, name) is None:
        raise Failure(f"{name} does not run")
    processes.stop(layout, name)


def kill(layout: Layout, name: str) -> None:
    """Kills a component with SIGKILL, and waits until it is gone."""
    if processes.recorded(layout, name) is None:
        raise Failure(f"{name} does not run")
    processes.stop(layout, name, grace_seconds=0)


def start(layout: Layout, name: str) -> None:
    """Starts a component and waits until it is ready."""
    if not layout.footprint.exists():
        raise Failure("no cluster is up")
    services.start(layout, name)
    services.wait_ready(layout, name)


def signal_pod(layout: Layout, namespace: str, pod: str, container: str | None, number: signal.Signals) -> int:
    """Signals every process in a pod's containers, or in one of them; says how many it were."""
    found = _processes(layout, namespace, pod, container)
    if not found:
        raise Failure(f"no container{f' {container}' if container else ''} runs in the pod {namespace}/{pod}")
    count = sum(processes.send(identity, number) for identity in found)
    if number == FREEZE:
        # What was forked while we stopped the others.
        for identity in set(_processes(layout, namespace, pod, container)) - set(found):
            count += processes.send(identity, number)
    return count


def pids(layout: Layout, namespace: str, pod: str) -> list[int]:
    """The numbers of every process in a pod's containers, for who wants to signal them at a moment of its own."""
    found = _processes(layout, namespace, pod, None)
    if not found:
        raise Failure(f"no container runs in the pod {namespace}/{pod}")
    return [identity.pid for identity in found]


def _processes(layout: Layout, namespace: str, pod: str, container: str | None) -> list[processes.Identity]:
    labels = {
        "io.cri-containerd.kind": "container",
        "io.kubernetes.pod.namespace": namespace,
        "io.kubernetes.pod.name": pod,
    }
    if container:
        labels["io.kubernetes.container.name"] = container
    wanted = ",".join(f'labels."{label}"=={value}' for label, value in labels.items())
    found = []
    for name in _ctr(layout, "containers", "list", "-q", wanted).split():
        try:
            # PID and information, below a heading.
            lines = _ctr(layout, "tasks", "ps", name).splitlines()[1:]
        except Failure:
            continue  # A container that has ended has no task.
        found += [identity for line in lines if (identity := processes.identify(int(line.split()[0]))) is not None]
    return found


def _ctr(layout: Layout, *arguments: str) -> str:
    done = subprocess.run(services.ctr(layout, *arguments), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"ctr {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout
