"""The configuration files of the components, as they are written for one cluster.

Everything listens on loopback or on the bridge's address. No component elects a leader, for there is one of each.
"""

from __future__ import annotations

import base64
import json
import pathlib
from typing import Any

import layout as at
import packages
from layout import Layout


def write(layout: Layout) -> None:
    """Writes every file."""
    for party in ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "coredns"):
        _json(layout.config / f"{party}.kubeconfig", _kubeconfig(layout, party))
    _json(layout.kubeconfig, _kubeconfig(layout, "admin"))
    _json(layout.config / "kubelet.yaml", _kubelet(layout))
    _json(layout.config / "kube-proxy.yaml", _kube_proxy(layout))
    _json(layout.cni / "conf" / f"10-{at.BRIDGE}.conflist", _network(layout))
    (layout.config / "containerd.toml").write_text(_containerd(layout))
    (layout.config / "Corefile").write_text(_corefile(layout))
    (layout.config / "resolv.conf").write_text(f"nameserver {at.NODE_ADDRESS}\n")


def _json(file: pathlib.Path, value: Any) -> None:
    """Writes JSON, which is YAML too, readable by its owner alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(json.dumps(value, indent=2) + "\n")


def _kubeconfig(layout: Layout, party: str) -> dict[str, Any]:
    def content(file: str) -> str:
        return base64.b64encode((layout.pki / file).read_bytes()).decode()

    name = "millrace-cluster"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": at.API_SERVER, "certificate-authority-data": content("ca.crt")}}
        ],
        "users": [
            {
                "name": party,
                "user": {
                    "client-certificate-data": content(f"{party}.crt"),
                    "client-key-data": content(f"{party}.key"),
                },
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": party}}],
        "current-context": name,
    }


def _kubelet(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": at.NODE_ADDRESS,
        "port": at.KUBELET_PORT,
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": at.KUBELET_HEALTH_PORT,
        "tlsCertFile": str(layout.pki / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(layout.pki / "kubelet-server.key"),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [at.NODE_ADDRESS],
        "clusterDomain": at.DOMAIN,
        "resolvConf": str(layout.config / "resolv.conf"),
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": "/millrace-cluster",
        # Machines with cgroup version 1 and with swap are welcome.
        "failCgroupV1": False,
        "failSwapOn": False,
        # kube-proxy's rules are nftables', and chains of iptables would stay behind.
        "makeIPTablesUtilChains": False,
        # How soon a changed Secret reaches a pod that runs. A minute is usual.
        "syncFrequency": "10s",
        "podLogsDir": str(layout.pod_logs),
        "volumePluginDir": str(layout.kubelet / "volume-plugins"),
        # A developer's disk is fuller than a server's, and an image that is collected cannot be pulled again.
        "evictionHard": {
            "imagefs.available": "1%",
            "memory.available": "1%",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
    }


def _kube_proxy(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(layout.config / "kube-proxy.kubeconfig")},
        "clusterCIDR": at.PODS,
        "hostnameOverride": at.NODE,
        "healthzBindAddress": f"127.0.0.1:{at.PROXY_HEALTH_PORT}",
        "metricsBindAddress": f"127.0.0.1:{at.PROXY_METRICS_PORT}",
        "nodePortAddresses": [at.PODS],
        # Zero leaves the kernel's settings as they are.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def _network(layout: Layout) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": at.BRIDGE,
        "plugins": [
            {
                "type": "bridge",
                "bridge": at.BRIDGE,
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(layout.cni / "addresses"),
                    "ranges": [[{"subnet": at.PODS, "gateway": at.NODE_ADDRESS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def _containerd(layout: Layout) -> str:
    # restrict_oom_score_adj: where the machine itself is a container, runc may not lower the score, and no pod starts.
    return f"""\
version = 2
root = "{layout.containerd}/root"
state = "{layout.containerd}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{layout.containerd_socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{layout.containerd}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{at.PAUSE_IMAGE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{packages.CNI_PLUGINS}"
conf_dir = "{layout.cni}/conf"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{layout.containerd}/runc"
"""


def _corefile(layout: Layout) -> str:
    # Names of the world outside are asked of the machine's own servers, where it has some.
    try:
        outside = "nameserver" in pathlib.Path("/etc/resolv.conf").read_text()
    except FileNotFoundError:
        outside = False
    forward = "    forward . /etc/resolv.conf\n" if outside else ""
    return f"""\
. {{
    bind {at.NODE_ADDRESS}
    errors
    ready 127.0.0.1:{at.DNS_READY_PORT}
    kubernetes {at.DOMAIN} in-addr.arpa {{
        kubeconfig {layout.config}/coredns.kubeconfig
        ttl 1
    }}
{forward}}}
"""
