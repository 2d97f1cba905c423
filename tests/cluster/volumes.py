"""Persistent volumes: a provisioner that gives each claim a folder of this machine, as a volume of the kind `local`.

Unlike a `hostPath`, a `local` volume takes a pod's `fsGroup`, so pods that do not run as root can write to it. Claims
of the class `bounded` get a file system in memory that has just the size they ask for, so that a test can fill it.

What is to be done is decided from the lists of claims and volumes alone; see `decide`. Doing it twice does no harm: the
folder bears the claim's uid, and so does the volume's name.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

from api import Api, Refused
from layout import NODE, Layout
from talk import warn

PROVISIONER = "millrace.dev/cluster-volumes"
STANDARD = "standard"
BOUNDED = "bounded"
EVERY_SECONDS = 0.3

T = TypeVar("T")
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclasses.dataclass(frozen=True)
class Provide:
    """A claim has no volume yet."""

    claim: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Discard:
    """A volume's claim is gone, and nobody wants what is in it."""

    volume: dict[str, Any]


def decide(claims: list[dict[str, Any]], volumes: list[dict[str, Any]]) -> list[Provide | Discard]:
    """What is to be done."""
    there = {volume["metadata"]["name"] for volume in volumes}
    steps: list[Provide | Discard] = []
    for claim in claims:
        wanted = (
            claim["status"].get("phase", "Pending") == "Pending"
            and claim["spec"].get("storageClassName") in (STANDARD, BOUNDED)
            and not claim["spec"].get("volumeName")
            and "deletionTimestamp" not in claim["metadata"]
        )
        if wanted and volume_name(claim) not in there:
            steps.append(Provide(claim))
    for volume in volumes:
        ours = volume["metadata"].get("annotations", {}).get("pv.kubernetes.io/provisioned-by") == PROVISIONER
        unwanted = volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        if ours and unwanted and volume["status"].get("phase") == "Released":
            steps.append(Discard(volume))
    return steps


def volume_name(claim: dict[str, Any]) -> str:
    """The name of a claim's volume, and of its folder."""
    return f"pvc-{claim['metadata']['uid']}"


def size_bytes(quantity: str) -> int:
    """A Kubernetes quantity in bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]?|[KMGT]i)", quantity)
    if not found:
        raise ValueError(f"not a size: {quantity}")
    return int(float(found[1]) * UNITS[found[2]])


def volume(layout: Layout, claim: dict[str, Any]) -> dict[str, Any]:
    """The PersistentVolume for a claim."""
    spec, metadata = claim["spec"], claim["metadata"]
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim),
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec["storageClassName"],
            "volumeMode": "Filesystem",
            "local": {"path": str(layout.volumes / volume_name(claim))},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
        },
    }


def serve(layout: Layout) -> None:
    """Provides and discards until the process is ended. The API server may come and go, and one volume keeps no other waiting."""
    api = Api(layout, "volumes")
    told: set[str] = set()
    while True:
        failed: set[str] = set()
        for step in _attempt(failed, lambda: _wanted(api)) or []:
            _attempt(failed, lambda step=step: _do(layout, api, step))
        for problem in sorted(failed - told):
            warn(f"{time.strftime('%H:%M:%S')} {problem}")
        told = failed
        time.sleep(EVERY_SECONDS)


def _wanted(api: Api) -> list[Provide | Discard]:
    claims = api.get("/api/v1/persistentvolumeclaims")["items"]
    return decide(claims, api.get("/api/v1/persistentvolumes")["items"])


def _attempt(failed: set[str], work: Callable[[], T]) -> T | None:
    try:
        return work()
    except (OSError, ValueError, subprocess.CalledProcessError) as problem:
        failed.add(str(problem))
        return None


def _do(layout: Layout, api: Api, step: Provide | Discard) -> None:
    match step:
        case Provide(claim):
            folder = layout.volumes / volume_name(claim)
            folder.mkdir(parents=True, exist_ok=True)
            if claim["spec"]["storageClassName"] == BOUNDED and not os.path.ismount(folder):
                size = size_bytes(claim["spec"]["resources"]["requests"]["storage"])
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
            # Whoever the pod runs as may write, as on most machines' default class.
            folder.chmod(0o777)
            try:
                api.call("POST", "/api/v1/persistentvolumes", volume(layout, claim))
            except Refused as refused:
                if refused.status != 409:
                    raise
        case Discard(found):
            folder = pathlib.Path(found["spec"]["local"]["path"])
            if folder.parent != layout.volumes:
                raise ValueError(f"{folder} is no volume of this cluster")
            if os.path.ismount(folder):
                subprocess.run(["umount", folder], check=True)
            shutil.rmtree(folder, ignore_errors=True)
            api.call("DELETE", f"/api/v1/persistentvolumes/{found['metadata']['name']}")
