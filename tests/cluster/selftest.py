"""Shows that a cluster works: starts one, uses all that the project's tests use, breaks it, and takes it down.

A check that fails does not stop the others, but the cluster's logs are collected then. The last check is that the
machine is as it was before.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

import checks
import components
import down
import evidence
import faults
import machine
import packages
import processes
import up
from layout import CACHE, HERE, Layout
from talk import Failure, say, warn


def run(layout: Layout, program: pathlib.Path | None) -> int:
    """Runs everything, prints a line for each check and the times, and returns the exit status."""
    if other := up.other_cluster(layout):
        raise Failure(f"the self-test starts a cluster of its own: unset KUBECONFIG, which is {other}")
    if subprocess.run([sys.executable, HERE / "tests.py"]).returncode != 0:
        return 1
    if down.remains(layout):
        down.down(layout)
    # Before the clock starts: what is done once on a machine.
    packages.install()
    components.build()
    before = machine.picture(layout)
    started = time.monotonic()
    up.up(layout)
    times = {"up": time.monotonic() - started}
    failed = []
    cluster = checks.Cluster(layout, program)
    for check in checks.CHECKS:
        started = time.monotonic()
        name = check.__name__.replace("_", " ")
        try:
            check(cluster)
            say(f"ok: {name} ({time.monotonic() - started:.1f} s)")
        except (Failure, OSError, subprocess.SubprocessError) as failure:
            failed.append(name)
            warn(f"FAILED: {name} ({time.monotonic() - started:.1f} s)\n{failure}")
    if failed:
        evidence.collect(layout, CACHE / "failure")
    for name in ("kube-scheduler", "coredns", "etcd"):
        faults.kill(layout, name)
    started = time.monotonic()
    up.up(layout)
    times["up, with three parts stopped"] = time.monotonic() - started
    if cluster.tried("get", "pod", "kept-0").returncode != 0:
        failed.append("up keeps the objects of a cluster in which parts have stopped")
    crashed = _crash(layout)
    started = time.monotonic()
    up.up(layout)
    times[f"up, after {crashed} processes were killed"] = time.monotonic() - started
    started = time.monotonic()
    up.up(layout)
    times["up, when it is up"] = time.monotonic() - started
    started = time.monotonic()
    down.down(layout)
    times["down"] = time.monotonic() - started
    if left := machine.picture(layout) - before:
        failed.append("down leaves nothing")
        warn("FAILED: down leaves nothing; new on the machine:\n" + "\n".join(f"  {what}" for what in sorted(left)))
    else:
        say("ok: down leaves nothing")
    say("Times: " + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in times.items()))
    for name in failed:
        warn(f"FAILED: {name}")
    return 1 if failed else 0


def _crash(layout: Layout) -> int:
    """Kills every component at once, and leaves the pods, as a run that is killed does."""
    running = list(processes.all_recorded(layout).values())
    processes.end(running, 0)
    return len(running)
