"""What the machine must have from its distribution, installed with apt-get where something of it is missing.

Debian's containerd comes with a service of its own, which this cluster neither needs nor touches.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import footprint
from talk import Failure, say

CNI_PLUGINS = pathlib.Path("/usr/lib/cni")

# The package, and the program that shows that it is there.
PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "nftables": "nft",
    "iproute2": "ip",
    "busybox-static": "busybox",
    "openssl": "openssl",
    "mount": "umount",
}


def find(program: str) -> str | None:
    """The path of a program; those for root are found even where PATH lacks their folders."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")


def missing() -> list[str]:
    """The packages that are to be installed."""
    packages = [package for package, program in PROGRAMS.items() if not find(program)]
    if not (CNI_PLUGINS / "bridge").exists():
        packages.append("containernetworking-plugins")
    # Where the kernel has it built in, or loaded, nothing needs to be loaded.
    if not footprint.setting(footprint.BRIDGED).exists() and not find("modprobe"):
        packages.append("kmod")
    return packages


def install() -> None:
    """Installs what is missing."""
    packages = missing()
    if not packages:
        return
    if not find("apt-get"):
        raise Failure(f"These packages are missing, and there is no apt-get to install them: {', '.join(packages)}")
    say(f"Install {' '.join(packages)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise Failure(f"{' '.join(command)} failed:\n{done.stdout}")
