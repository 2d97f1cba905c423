"""The pods' network: one bridge on this machine, whose address is the node's, and a table that lets pods out.

Pods are joined to the bridge by the CNI plugins `bridge` and `host-local`. Packets that leave the machine are
masqueraded by a table of our own, not by the plugins, which would leave chains behind after a crash. The bridge's alias
names the folder of the cluster that made it.
"""

from __future__ import annotations

import json
import pathlib
import subprocess

import footprint
from layout import BRIDGE, NODE_ADDRESS, PODS, Layout
from talk import Failure

TABLE = "millrace-cluster"
# kube-proxy's tables bear its name in each family.
TABLES = [("ip", TABLE), ("ip", "kube-proxy"), ("ip6", "kube-proxy")]


RULES = f"""\
table ip {TABLE} {{
    chain leaving {{
        type nat hook postrouting priority srcnat
        ip saddr {PODS} ip daddr != {PODS} oifname != {BRIDGE} masquerade
    }}
}}
"""


def run(*command: str, stdin: str | None = None) -> str:
    """Runs a program of the system and returns what it printed; fails with what it said."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def owner() -> str | None:
    """The folder of the cluster that made the bridge; None where there is no bridge."""
    links = json.loads(run("ip", "-json", "link", "show"))
    return next((link.get("ifalias", "") for link in links if link["ifname"] == BRIDGE), None)


def make(layout: Layout) -> None:
    """Makes the bridge and the table, and lets the kernel forward packets."""
    if not footprint.setting(footprint.BRIDGED).exists():
        run("modprobe", "br_netfilter")
    for name in (footprint.FORWARD, footprint.BRIDGED):
        footprint.setting(name).write_text("1")
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "link", "set", BRIDGE, "alias", str(layout.folder))
    run("ip", "address", "add", f"{NODE_ADDRESS}/{PODS.partition('/')[2]}", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    run("nft", "--file", "-", stdin=RULES)


def remove(layout: Layout) -> None:
    """Removes the bridge, what is joined to it, and the tables; nothing if the bridge is another cluster's."""
    if owner() not in (None, str(layout.folder)):
        return
    for link in _links():
        # The other end of a pair that goes with the first one is no mistake.
        subprocess.run(["ip", "link", "delete", link], capture_output=True)
    for family, table in _tables():
        run("nft", "delete", "table", family, table)
    for result in pathlib.Path("/var/lib/cni/results").glob(f"{BRIDGE}-*"):
        result.unlink()


def remains(layout: Layout) -> list[str]:
    """The links and tables that are there."""
    if owner() not in (None, str(layout.folder)):
        return []
    return [f"link {link}" for link in _links()] + [f"nftables table {' '.join(table)}" for table in _tables()]


def _links() -> list[str]:
    links = json.loads(run("ip", "-json", "link", "show"))
    joined = [link["ifname"] for link in links if link.get("master") == BRIDGE]
    return joined + [link["ifname"] for link in links if link["ifname"] == BRIDGE]


def _tables() -> list[tuple[str, str]]:
    listed = json.loads(run("nft", "-json", "list", "tables"))["nftables"]
    there = {(item["table"]["family"], item["table"]["name"]) for item in listed if "table" in item}
    return [table for table in TABLES if table in there]
