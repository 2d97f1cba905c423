"""Looking into a cluster: which parts run, what they wrote, and all of it in one folder for a failure's sake."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import components
import processes
import services
import up
from layout import Layout
from talk import Failure, last_lines, say

# What `collect` asks of the cluster, and the file that takes the answer.
QUESTIONS = {
    "objects.txt": ["get", "all,pvc,pv,configmaps,leases,events", "--all-namespaces", "-o", "wide"],
    "events.txt": ["events", "--all-namespaces"],
    "pods.yaml": ["get", "pods", "--all-namespaces", "-o", "yaml"],
    "pods.txt": ["describe", "pods", "--all-namespaces"],
    "nodes.txt": ["describe", "nodes"],
}


def status(layout: Layout) -> bool:
    """Prints a line for each part, and what the API server knows; says whether all is well."""
    well = layout.footprint.exists()
    print(f"{'COMPONENT':<24} {'VERSION':<9} {'PID':>7}  {'STATE':<9} WHERE")
    for service in services.SERVICES.values():
        identity = processes.recorded(layout, service.name)
        ready = identity is not None and services.ready(layout, service.name)
        well = well and ready
        component = components.COMPONENTS.get(service.name)
        version = components.version(component) if component else "-"
        state = "ready" if ready else "not ready" if identity else "stopped"
        pid = identity.pid if identity else "-"
        print(f"{service.name:<24} {version:<9} {pid:>7}  {state:<9} {service.listens}".rstrip())
    if well:
        print(flush=True)
        subprocess.run(up.kubectl(layout, "get", "nodes,pods", "--all-namespaces"))
    return well


def logs(layout: Layout, names: list[str], lines: int, follow: bool) -> None:
    """Prints the end of components' logs, all of them unless some are named."""
    files = [layout.log(name) for name in names] or sorted(layout.logs.glob("*.log"))
    if not files:
        raise Failure("there are no logs, for no cluster is up")
    if follow:
        os.execvp("tail", ["tail", "-n", str(lines), "-F", *map(str, files)])
    for file in files:
        print(f"--- {file}\n{last_lines(file, lines)}")


def collect(layout: Layout, target: pathlib.Path) -> None:
    """Copies what tells about a failure into a folder: logs of components and pods, objects, events."""
    if not layout.folder.exists():
        raise Failure("there is nothing to collect, for no cluster is up")
    target.mkdir(parents=True, exist_ok=True)
    for name, source in (("components", layout.logs), ("pods", layout.pod_logs)):
        if source.exists():
            shutil.copytree(source, target / name, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    for name, question in QUESTIONS.items():
        command = up.kubectl(layout, *question, "--request-timeout=10s")
        with (target / name).open("w") as file:
            subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
    say(f"Logs, objects and events are in {target}")
