"""Who is who in the cluster: a certificate authority of its own, and a key and certificate for each party, by openssl.

A client's name and groups are its certificate's CN and O; Kubernetes' own RBAC rules know the names `system:…`. Servers
carry the names and addresses by which they are called. All of it is made anew by every `up`, and lasts ten years.
"""

from __future__ import annotations

import dataclasses
import subprocess

from layout import API_SERVICE_ADDRESS, DOMAIN, NODE, NODE_ADDRESS, Layout
from talk import Failure

DAYS = 3650
ELLIPTIC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@dataclasses.dataclass(frozen=True)
class Party:
    """A holder of a certificate: a server where it has addresses, else a client."""

    name: str
    common_name: str
    group: str = ""
    alternative_names: tuple[str, ...] = ()


CLIENTS = [
    Party("admin", "millrace-admin", "system:masters"),
    Party("apiserver-to-kubelet", "kube-apiserver", "system:masters"),
    Party("kube-controller-manager", "system:kube-controller-manager"),
    Party("kube-scheduler", "system:kube-scheduler"),
    Party("kube-proxy", "system:kube-proxy"),
    Party("kubelet", f"system:node:{NODE}", "system:nodes"),
    # Their rights are in bootstrap.yaml.
    Party("coredns", "millrace:dns"),
    Party("volumes", "millrace:volumes"),
]

SERVERS = [
    Party(
        "apiserver-server",
        "kube-apiserver",
        alternative_names=(
            *(f"IP:{address}" for address in ("127.0.0.1", NODE_ADDRESS, API_SERVICE_ADDRESS)),
            *(f"DNS:kubernetes{rest}" for rest in ("", ".default", ".default.svc", f".default.svc.{DOMAIN}")),
            "DNS:localhost",
        ),
    ),
    # Without the node's address in it, `kubectl exec` and `kubectl logs` fail.
    Party("kubelet-server", NODE, alternative_names=(f"IP:{NODE_ADDRESS}", f"DNS:{NODE}")),
]


def make(layout: Layout) -> None:
    """Makes the authority, every party's key and certificate, and the key that signs ServiceAccounts' tokens."""
    layout.pki.mkdir(mode=0o700)
    authority = ["-x509", *ELLIPTIC, "-days", str(DAYS), "-subj", "/CN=millrace-cluster"]
    usage = ["-addext", "keyUsage=critical,keyCertSign,digitalSignature"]
    _openssl(layout, ["req", *authority, *usage, "-keyout", "ca.key", "-out", "ca.crt"])
    for party in CLIENTS + SERVERS:
        _issue(layout, party)
    _openssl(layout, ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "tokens.key"])
    _openssl(layout, ["pkey", "-in", "tokens.key", "-pubout", "-out", "tokens.pub"])


def _issue(layout: Layout, party: Party) -> None:
    subject = (f"/O={party.group}" if party.group else "") + f"/CN={party.common_name}"
    extensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]
    if party.alternative_names:
        extensions += ["extendedKeyUsage=serverAuth", f"subjectAltName={','.join(party.alternative_names)}"]
    else:
        extensions += ["extendedKeyUsage=clientAuth"]
    arguments = ["req", "-x509", *ELLIPTIC, "-CA", "ca.crt", "-CAkey", "ca.key", "-days", str(DAYS), "-subj", subject]
    for extension in extensions:
        arguments += ["-addext", extension]
    _openssl(layout, [*arguments, "-keyout", f"{party.name}.key", "-out", f"{party.name}.crt"])


def _openssl(layout: Layout, arguments: list[str]) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=layout.pki, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"openssl {' '.join(arguments)} failed:\n{done.stderr}")
