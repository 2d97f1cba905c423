"""What must hold of a cluster, each a function whose name says it. They run in the order of `CHECKS`.

Each one may use what those before it left; the objects are those of selftest.yaml.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

import faults
import images
import layout as at
import processes
import up
from layout import Layout
from talk import Failure, TimedOut, step, until

NAMESPACE = "selftest"
PATIENCE_SECONDS = 60


class Cluster:
    """The cluster as a test uses it."""

    def __init__(self, layout: Layout, program: pathlib.Path | None) -> None:
        self.layout = layout
        self.program = program

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints; fails with what it says."""
        done = self.tried(*arguments, stdin=stdin)
        if done.returncode != 0:
            raise Failure(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def tried(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """The outcome of kubectl, good or bad."""
        command = up.kubectl(self.layout, "--namespace", NAMESPACE, *arguments)
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=180)

    def wait(self, what: str, condition: Callable[[], object]) -> None:
        """Waits for a condition; a kubectl that fails counts as not yet."""

        def holds() -> object:
            try:
                return condition()
            except Failure:
                return False

        until(what, holds, PATIENCE_SECONDS)

    def in_pod(self, pod: str, *command: str) -> str:
        """What a command in a pod prints."""
        return self.kubectl("exec", pod, "--", *command)


def pods_of_a_deployment_run(cluster: Cluster) -> None:
    cluster.kubectl("apply", "--server-side", "-f", str(at.HERE / "selftest.yaml"))
    cluster.kubectl("rollout", "status", "deployment/web", f"--timeout={PATIENCE_SECONDS}s")
    cluster.kubectl("rollout", "status", "statefulset/kept", f"--timeout={PATIENCE_SECONDS}s")


def a_service_is_reached_by_name_from_another_pod_and_from_its_own(cluster: Cluster) -> None:
    def word(pod: str) -> str:
        # Not wget: Debian's static busybox crashes in it where there are no shared libraries.
        ask = "printf 'GET /word HTTP/1.0\\r\\n\\r\\n' | nc -w 2 web 80 | tail -n 1"
        return cluster.in_pod(pod, "sh", "-c", ask)

    cluster.wait("the Service web to answer", lambda: word("kept-0") == "open sesame")
    pod = cluster.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")
    # Often enough for the pod to be sent to itself as well.
    if any(word(pod) != "open sesame" for _ in range(6)):
        raise Failure("a pod behind the Service got another answer")


def a_pod_of_a_headless_service_has_a_name(cluster: Cluster) -> None:
    address = cluster.kubectl("get", "pod", "kept-0", "-o", "jsonpath={.status.podIP}")
    name = f"kept-0.kept.{NAMESPACE}.svc.{at.DOMAIN}"
    cluster.wait(f"{name} to be {address}", lambda: address in cluster.in_pod("kept-0", "nslookup", name))


def a_volume_keeps_its_data_when_the_pod_is_deleted(cluster: Cluster) -> None:
    before = cluster.kubectl("get", "pod", "kept-0", "-o", "jsonpath={.metadata.uid}")
    cluster.kubectl("delete", "pod", "kept-0")
    cluster.kubectl("rollout", "status", "statefulset/kept", f"--timeout={PATIENCE_SECONDS}s")
    after = cluster.kubectl("get", "pod", "kept-0", "-o", "jsonpath={.metadata.uid}")
    starts = cluster.in_pod("kept-0", "cat", "/data/starts").split()
    if before == after or starts != ["start", "start"]:
        raise Failure(f"the pod {before} became {after}, and its volume tells of {starts}")


def a_bounded_volume_can_be_filled(cluster: Cluster) -> None:
    phase = ["get", "pod", "filler", "-o", "jsonpath={.status.phase}"]
    cluster.wait("dd to fail", lambda: cluster.kubectl(*phase) == "Failed")
    if "No space left" not in (said := cluster.kubectl("logs", "filler")):
        raise Failure(f"dd said: {said}")


def a_volume_goes_with_its_claim(cluster: Cluster) -> None:
    name = cluster.kubectl("get", "pvc", "small", "-o", "jsonpath={.spec.volumeName}")
    cluster.kubectl("delete", "pod/filler", "pvc/small")
    folder = cluster.layout.volumes / name
    cluster.wait(f"{folder} to go", lambda: not folder.exists())
    cluster.wait("the PersistentVolume to go", lambda: cluster.tried("get", "pv", name).returncode != 0)


def logs_can_be_read(cluster: Cluster) -> None:
    lines = ["logs", "-l", "app=web", "--tail=-1"]
    cluster.wait("the answers of web in its log", lambda: "response:200" in cluster.kubectl(*lines))


def a_changed_secret_reaches_the_pod(cluster: Cluster) -> None:
    cluster.kubectl("patch", "secret", "word", "--type=merge", "-p", '{"stringData": {"word": "other"}}')

    def changed() -> bool:
        return cluster.in_pod("deployment/web", "cat", "/secret/word") == "other"

    until("the Secret's new value in the pod", changed, PATIENCE_SECONDS, every=1)


def a_token_does_what_its_role_gives_and_no_more(cluster: Cluster) -> None:
    token = cluster.kubectl("create", "token", "reader")
    address = ["--server", at.API_SERVER, "--certificate-authority", str(cluster.layout.pki / "ca.crt")]
    # Without a kubeconfig, lest its certificate be used beside the token.
    with tempfile.NamedTemporaryFile("w", suffix=".kubeconfig") as empty:

        def reader(*arguments: str) -> subprocess.CompletedProcess[str]:
            remembers = f"--cache-dir={cluster.layout.folder}/kubectl-cache"
            program = up.kubectl(cluster.layout, remembers, kubeconfig=empty.name)
            command = [*program, *address, "--token", token, "--namespace", NAMESPACE, *arguments]
            return subprocess.run(command, capture_output=True, text=True)

        allowed, refused = reader("get", "configmaps"), reader("get", "secrets")
    if allowed.returncode != 0:
        raise Failure(f"the Role's own right was refused: {allowed.stderr}")
    if refused.returncode == 0 or "Forbidden" not in refused.stderr:
        raise Failure(f"what no Role gives was not refused: {refused.stdout}{refused.stderr}")


def pods_that_break_the_restricted_standard_are_refused(cluster: Cluster) -> None:
    refused = cluster.tried("run", "rude", f"--image={at.BUSYBOX_IMAGE}", "--privileged", "--dry-run=server")
    if "violates PodSecurity" not in refused.stderr:
        raise Failure(f"a privileged pod got this answer: {refused.stdout}{refused.stderr}")


def the_server_checks_objects_without_keeping_them(cluster: Cluster) -> None:
    good = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "%s"}}'
    cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=good % "passing")
    if cluster.tried("get", "configmap", "passing").returncode == 0:
        raise Failure("a dry run left an object")
    if cluster.tried("apply", "--dry-run=server", "-f", "-", stdin=good % "Not A Name").returncode == 0:
        raise Failure("a bad name passed")


def an_image_of_ours_runs(cluster: Cluster) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "root"
        root.mkdir()
        (root / "greeting").write_text("hello from a folder")
        files = images.of_busybox()
        files.files |= images.of_folder(root).files
        tar = pathlib.Path(folder) / "greeting.tar"
        images.write(tar, "greeting:1", files, ["/bin/cat", "/greeting"], user=images.NOBODY)
        images.load(cluster.layout, "greeting:1", tar)
    _run_to_its_end(cluster, "greeting", "greeting:1", [], "hello from a folder")


def an_image_of_a_program_and_its_libraries_runs(cluster: Cluster) -> None:
    program = cluster.program or pathlib.Path(sys.executable).resolve()
    with tempfile.TemporaryDirectory() as folder:
        tar = pathlib.Path(folder) / "program.tar"
        with step(f"  Write the image of {program.name}"):
            images.of_program(tar, "millrace.test/program:1", program)
        with step(f"  Import it, {tar.stat().st_size / 1e6:.0f} MB"):
            images.load(cluster.layout, "millrace.test/program:1", tar)
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    _run_to_its_end(cluster, "program", "millrace.test/program:1", ["--version"], said)


def _run_to_its_end(cluster: Cluster, name: str, image: str, arguments: list[str], says: str) -> None:
    namespace = ["--namespace", "default"]
    cluster.kubectl(*namespace, "run", name, f"--image={image}", "--restart=Never", "--", *arguments)
    phase = [*namespace, "get", "pod", name, "-o", "jsonpath={.status.phase}"]
    cluster.wait(f"the pod {name} to end", lambda: cluster.kubectl(*phase) in ("Succeeded", "Failed"))
    if (said := cluster.kubectl(*namespace, "logs", name)) != says:
        raise Failure(f"{name} said {said!r} instead of {says!r}")
    cluster.kubectl(*namespace, "delete", "pod", name, "--grace-period=0")


def a_frozen_pod_is_silent_and_a_thawed_one_goes_on(cluster: Cluster) -> None:
    claim = cluster.kubectl("get", "pvc", "data-kept-0", "-o", "jsonpath={.spec.volumeName}")
    beats = cluster.layout.volumes / claim / "beats"

    def grown(seconds: float) -> bool:
        """Whether the pod writes something within a time."""
        before = beats.stat().st_size
        try:
            return bool(until("a beat", lambda: beats.stat().st_size > before, seconds, every=0.02))
        except TimedOut:
            return False

    if not grown(10):
        raise Failure("the pod was silent before")
    faults.signal_pod(cluster.layout, NAMESPACE, "kept-0", None, faults.FREEZE)
    if grown(1):
        raise Failure("the frozen pod goes on")
    faults.signal_pod(cluster.layout, NAMESPACE, "kept-0", None, faults.THAW)
    if not grown(10):
        raise Failure("the thawed pod is silent")


def pods_live_through_the_death_of_every_component(cluster: Cluster) -> None:
    def pods() -> set[str]:
        each = "{range .items[*]}{.metadata.uid}={.status.containerStatuses[0].restartCount} {end}"
        return set(cluster.kubectl("get", "pods", "-o", f"jsonpath={each}").split())

    before = pods()
    for name, fault in (
        ("kube-apiserver", faults.kill),
        ("kube-apiserver", faults.stop),
        ("etcd", faults.stop),
        ("etcd", faults.kill),
        ("kubelet", faults.kill),
        ("containerd", faults.kill),
    ):
        with step(f"  {fault.__name__} and start {name}"):
            fault(cluster.layout, name)
            if processes.recorded(cluster.layout, name) is not None:
                raise Failure(f"{name} still runs")
            faults.start(cluster.layout, name)
    until("the cluster to be whole", lambda: up.whole(cluster.layout), PATIENCE_SECONDS)
    cluster.kubectl("scale", "deployment/web", "--replicas=3")
    cluster.kubectl("rollout", "status", "deployment/web", f"--timeout={PATIENCE_SECONDS}s")
    cluster.wait("exec to work", lambda: cluster.in_pod("kept-0", "echo", "here") == "here")
    if not before <= (after := pods()):
        raise Failure(f"pods and their restarts were {before}, and are {after}")


CHECKS: list[Callable[[Cluster], None]] = [
    pods_of_a_deployment_run,
    a_service_is_reached_by_name_from_another_pod_and_from_its_own,
    a_pod_of_a_headless_service_has_a_name,
    a_volume_keeps_its_data_when_the_pod_is_deleted,
    a_bounded_volume_can_be_filled,
    a_volume_goes_with_its_claim,
    logs_can_be_read,
    a_token_does_what_its_role_gives_and_no_more,
    pods_that_break_the_restricted_standard_are_refused,
    the_server_checks_objects_without_keeping_them,
    an_image_of_ours_runs,
    an_image_of_a_program_and_its_libraries_runs,
    a_frozen_pod_is_silent_and_a_thawed_one_goes_on,
    a_changed_secret_reaches_the_pod,
    pods_live_through_the_death_of_every_component,
]
