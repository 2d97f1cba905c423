"""The processes of a cluster: how each is started, and how it is known to be ready.

The order of `SERVICES` is the order of starting; each one needs only what stands before it.
"""

from __future__ import annotations

import dataclasses
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable

import layout as at
import processes
from api import Api
from components import binary
from layout import Layout
from talk import Failure, TimedOut, last_lines, until

READY_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class Service:
    """One process of the cluster."""

    name: str
    command: Callable[[Layout], list[str]]
    ready: Callable[[Layout], bool]
    listens: str = ""
    """For people: where it is reached."""


def start(layout: Layout, name: str) -> None:
    """Starts a service, without waiting for more than the process."""
    processes.start(layout, name, SERVICES[name].command(layout))


def wait_ready(layout: Layout, name: str) -> None:
    """Waits until a service is ready. Fails at once, with the end of its log, when it ends."""
    service = SERVICES[name]
    log = layout.log(name)

    def ready() -> bool:
        if processes.recorded(layout, name) is None:
            raise Failure(f"{name} ended; the end of {log}:\n{last_lines(log)}")
        return service.ready(layout)

    try:
        until(f"{name} to be ready", ready, READY_SECONDS)
    except TimedOut as failure:
        raise Failure(f"{failure}; the end of {log}:\n{last_lines(log)}") from None


def ready(layout: Layout, name: str) -> bool:
    """Whether a service runs and is ready now."""
    try:
        return processes.recorded(layout, name) is not None and SERVICES[name].ready(layout)
    except OSError:
        return False


def ctr(layout: Layout, *arguments: str) -> list[str]:
    """The command that speaks to this cluster's containerd about what Kubernetes runs."""
    return ["ctr", "--address", str(layout.containerd_socket), "--namespace", "k8s.io", *arguments]


def _answers(url: str) -> bool:
    # These servers have certificates that they made for themselves, and are asked on loopback only.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
    with urllib.request.build_opener(*handlers).open(url, timeout=5) as answer:
        return bool(answer.status == 200)


def _containerd(layout: Layout) -> list[str]:
    return ["containerd", "--config", str(layout.config / "containerd.toml"), "--log-level", "warn"]


def _containerd_ready(layout: Layout) -> bool:
    done = subprocess.run(ctr(layout, "plugins", "list", "id==cri"), capture_output=True, text=True)
    return done.returncode == 0 and " ok" in done.stdout


def _etcd(layout: Layout) -> list[str]:
    return [
        str(binary("etcd")),
        f"--data-dir={layout.etcd}",
        f"--listen-client-urls={at.ETCD}",
        f"--advertise-client-urls={at.ETCD}",
        f"--listen-peer-urls={at.ETCD_PEER}",
        f"--initial-advertise-peer-urls={at.ETCD_PEER}",
        f"--initial-cluster=default={at.ETCD_PEER}",
        "--log-level=warn",
        # What is lost when the machine itself stops is of no use to anybody.
        "--unsafe-no-fsync",
    ]


def _apiserver(layout: Layout) -> list[str]:
    pki = layout.pki
    return [
        str(binary("kube-apiserver")),
        f"--etcd-servers={at.ETCD}",
        f"--bind-address={at.NODE_ADDRESS}",
        f"--advertise-address={at.NODE_ADDRESS}",
        f"--secure-port={at.API_PORT}",
        f"--tls-cert-file={pki}/apiserver-server.crt",
        f"--tls-private-key-file={pki}/apiserver-server.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-to-kubelet.crt",
        f"--kubelet-client-key={pki}/apiserver-to-kubelet.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{at.DOMAIN}",
        f"--service-account-key-file={pki}/tokens.pub",
        f"--service-account-signing-key-file={pki}/tokens.key",
        f"--service-cluster-ip-range={at.SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        # Without it, a server that is asked to end waits for watches, which do not end, until its patience does.
        "--shutdown-watch-termination-grace-period=1s",
        "--profiling=false",
    ]


def _controller_manager(layout: Layout) -> list[str]:
    kubeconfig = layout.config / "kube-controller-manager.kubeconfig"
    return [
        str(binary("kube-controller-manager")),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--root-ca-file={layout.pki}/ca.crt",
        f"--cluster-signing-cert-file={layout.pki}/ca.crt",
        f"--cluster-signing-key-file={layout.pki}/ca.key",
        f"--service-account-private-key-file={layout.pki}/tokens.key",
        f"--flex-volume-plugin-dir={layout.kubelet}/volume-plugins",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--profiling=false",
    ]


def _scheduler(layout: Layout) -> list[str]:
    kubeconfig = layout.config / "kube-scheduler.kubeconfig"
    return [
        str(binary("kube-scheduler")),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--profiling=false",
    ]


def _kubelet(layout: Layout) -> list[str]:
    return [
        str(binary("kubelet")),
        f"--config={layout.config}/kubelet.yaml",
        f"--kubeconfig={layout.config}/kubelet.kubeconfig",
        f"--hostname-override={at.NODE}",
        f"--node-ip={at.NODE_ADDRESS}",
        f"--root-dir={layout.kubelet}",
        f"--cert-dir={layout.kubelet}/pki",
    ]


def _kubelet_ready(layout: Layout) -> bool:
    if not _answers(f"http://127.0.0.1:{at.KUBELET_HEALTH_PORT}/healthz"):
        return False
    node = Api(layout, "admin").get(f"/api/v1/nodes/{at.NODE}")
    return any(it["type"] == "Ready" and it["status"] == "True" for it in node["status"].get("conditions", []))


def _kube_proxy(layout: Layout) -> list[str]:
    return [str(binary("kube-proxy")), f"--config={layout.config}/kube-proxy.yaml"]


def _coredns(layout: Layout) -> list[str]:
    return [str(binary("coredns")), "-conf", str(layout.config / "Corefile")]


def _volumes(layout: Layout) -> list[str]:
    return [sys.executable, "-u", str(at.HERE), "--dir", str(layout.folder), "serve-volumes"]


SERVICES = {
    service.name: service
    for service in (
        Service("containerd", _containerd, _containerd_ready, "its socket"),
        Service("etcd", _etcd, lambda _: _answers(f"{at.ETCD}/health"), at.ETCD),
        Service("kube-apiserver", _apiserver, lambda it: Api(it, "admin").ready(), at.API_SERVER),
        Service(
            "kube-controller-manager",
            _controller_manager,
            lambda _: _answers(f"https://127.0.0.1:{at.CONTROLLER_MANAGER_PORT}/healthz"),
            f"https://127.0.0.1:{at.CONTROLLER_MANAGER_PORT}",
        ),
        Service(
            "kube-scheduler",
            _scheduler,
            lambda _: _answers(f"https://127.0.0.1:{at.SCHEDULER_PORT}/readyz"),
            f"https://127.0.0.1:{at.SCHEDULER_PORT}",
        ),
        Service("kubelet", _kubelet, _kubelet_ready, f"https://{at.NODE_ADDRESS}:{at.KUBELET_PORT}"),
        Service(
            "kube-proxy",
            _kube_proxy,
            lambda _: _answers(f"http://127.0.0.1:{at.PROXY_HEALTH_PORT}/healthz"),
            f"http://127.0.0.1:{at.PROXY_METRICS_PORT}",
        ),
        Service(
            "coredns",
            _coredns,
            lambda _: _answers(f"http://127.0.0.1:{at.DNS_READY_PORT}/ready"),
            f"{at.NODE_ADDRESS}:53",
        ),
        Service("volumes", _volumes, lambda _: True),
    )
}
