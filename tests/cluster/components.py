"""What a cluster is built from: which programs, at which version, and building them from Go modules.

The versions are those of the modules in `modules/`, whose go.sum files pin every byte. A binary is built once, into
`$CACHE/cluster/bin/<component>-<version>/`; Go's own caches are beside it, in `$CACHE/cluster/go/`, and may be removed
when all is built. A binary appears under its name only when it is complete.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import time

from layout import CACHE, HERE
from talk import Failure, last_lines, say

BUILD_SECONDS = 3600
REPORT_EVERY_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Component:
    """A program that is built from a module of ours."""

    name: str
    module: str
    """The folder in `modules/`."""
    requires: str
    """The Go module whose version is the component's."""
    package: str


def _kubernetes(name: str) -> Component:
    return Component(name, "kubernetes", "k8s.io/kubernetes", f"k8s.io/kubernetes/cmd/{name}")


COMPONENTS = {
    component.name: component
    for component in (
        # The first one compiles most of what the other parts of Kubernetes need.
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        _kubernetes("kubectl"),
        Component("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        Component("coredns", "coredns", "github.com/coredns/coredns", "github.com/coredns/coredns"),
        Component("helm", "helm", "helm.sh/helm/v3", "helm.sh/helm/v3/cmd/helm"),
    )
}


def version(component: Component) -> str:
    """The version that the component's module pins."""
    text = (HERE / "modules" / component.module / "go.mod").read_text()
    found = re.search(rf"^(?:require )?\s*{re.escape(component.requires)} (v\S+)( // indirect)?$", text, re.MULTILINE)
    if not found:
        raise Failure(f"tests/cluster/modules/{component.module}/go.mod does not require {component.requires}")
    return found[1]


def binary(name: str) -> pathlib.Path:
    """Where a component's binary is, or will be."""
    return CACHE / "bin" / f"{name}-{version(COMPONENTS[name])}" / name


def missing() -> list[Component]:
    """The components that are yet to be built."""
    return [component for component in COMPONENTS.values() if not binary(component.name).exists()]


def build() -> None:
    """Builds what is missing, one component after the other, out of the way of other work on the machine."""
    todo = missing()
    if todo and not shutil.which("go"):
        raise Failure("go is missing: install Go 1.24 or newer from https://go.dev/dl, then run this again")
    for number, component in enumerate(todo, 1):
        _build(component, f"{number} of {len(todo)}")


def _build(component: Component, which: str) -> None:
    target = binary(component.name)
    log = CACHE / "logs" / f"build-{component.name}.log"
    for folder in (target.parent, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    go = CACHE / "go"
    environment = os.environ | {
        "CGO_ENABLED": "0",
        # Modules that can be written to are modules that can be removed.
        "GOFLAGS": "-mod=readonly -modcacherw",
        "GOPATH": str(go),
        "GOMODCACHE": str(go / "mod"),
        "GOCACHE": str(go / "build"),
    }
    command = ["nice", "-n", "19", "go", "build", "-trimpath", "-ldflags", _linker_flags(component)]
    say(f"Build {component.name} {version(component)} ({which}; minutes, unless Go's cache is warm)")
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "-o", unfinished, component.package],
            cwd=HERE / "modules" / component.module,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            status = _wait(process, component.name, started)
        except BaseException:
            process.kill()
            raise
    if status != 0:
        raise Failure(f"{component.name} does not build; the end of {log}:\n{last_lines(log)}")
    unfinished.rename(target)
    say(f"Build {component.name}: done in {time.monotonic() - started:.0f} s")


def _wait(process: subprocess.Popen[bytes], name: str, started: float) -> int:
    while (waited := time.monotonic() - started) < BUILD_SECONDS:
        try:
            return process.wait(timeout=REPORT_EVERY_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"Build {name}: at it for {waited + REPORT_EVERY_SECONDS:.0f} s")
    raise Failure(f"{name} was not built within {BUILD_SECONDS} s")


def _linker_flags(component: Component) -> str:
    # Without these, clients and the API's users are told that this is Kubernetes v0.0.0.
    pinned = version(component)
    values = {}
    if component.module == "kubernetes":
        major, minor, _ = pinned.removeprefix("v").split(".", 2)
        place = "k8s.io/component-base/version"
        values = {f"{place}.gitVersion": pinned, f"{place}.gitMajor": major, f"{place}.gitMinor": minor}
    elif component.module == "helm":
        values = {"helm.sh/helm/v3/internal/version.version": pinned}
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in values.items())])
