"""Container images without a registry: written as a tar of an OCI layout, and imported into containerd.

An image here has one layer, a root file system. Two writings of the same files give the same bytes: entries are sorted,
and have no times and no owners but root. The layout of such a tar:

    oci-layout              {"imageLayoutVersion": "1.0.0"}
    index.json              names the manifest, and the image's name in an annotation
    blobs/sha256/…          the manifest, the configuration, the layer (a plain tar)
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
import platform
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
from typing import Any

import packages
import services
from layout import Layout
from talk import Failure

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# The user of images of ours, which has no rights on the machine.
NOBODY = 65532
CERTIFICATES = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclasses.dataclass
class RootFs:
    """The files of an image, by their absolute paths."""

    files: dict[str, tuple[bytes | pathlib.Path, int]] = dataclasses.field(default_factory=dict)
    """Contents, or the file that has them, and permissions."""
    links: dict[str, str] = dataclasses.field(default_factory=dict)
    folders: dict[str, int] = dataclasses.field(default_factory=dict)

    def write(self, target: pathlib.Path) -> None:
        """Writes the layer's tar."""
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
            parents = {str(parent) for path in [*self.files, *self.links] for parent in pathlib.Path(path).parents}
            folders = {path: 0o755 for path in parents - {"/"}} | self.folders
            for path, mode in sorted(folders.items()):
                tar.addfile(_entry(path, tarfile.DIRTYPE, mode))
            for path, to in sorted(self.links.items()):
                entry = _entry(path, tarfile.SYMTYPE, 0o777)
                entry.linkname = to
                tar.addfile(entry)
            for path, (content, mode) in sorted(self.files.items()):
                entry = _entry(path, tarfile.REGTYPE, mode)
                with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as opened:
                    entry.size = opened.seek(0, io.SEEK_END)
                    opened.seek(0)
                    tar.addfile(entry, opened)


def _entry(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path.lstrip("/"))
    entry.type = kind
    entry.mode = mode
    return entry


def of_folder(folder: pathlib.Path) -> RootFs:
    """A root file system as it lies in a folder."""
    root = RootFs()
    for path in sorted(folder.rglob("*")):
        name = f"/{path.relative_to(folder)}"
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            root.links[name] = str(path.readlink())
        elif stat.S_ISDIR(mode):
            root.folders[name] = stat.S_IMODE(mode)
        elif stat.S_ISREG(mode):
            root.files[name] = (path, stat.S_IMODE(mode))
    return root


def of_binary(binary: pathlib.Path) -> RootFs:
    """A program as `/usr/local/bin/<its name>`, the libraries that it loads, and the certificates it trusts."""
    root = RootFs()
    root.files[f"/usr/local/bin/{binary.name}"] = (binary, 0o755)
    _libraries(binary, root)
    _people(root)
    return root


def of_busybox() -> RootFs:
    """A shell and the usual commands, for tests."""
    found = packages.find("busybox")
    if found is None:
        raise Failure("busybox is missing")
    busybox = pathlib.Path(found)
    root = RootFs()
    root.files["/bin/busybox"] = (busybox, 0o755)
    commands = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    root.links = {f"/bin/{command}": "busybox" for command in commands if command != "busybox"}
    _libraries(busybox, root)
    _people(root)
    return root


def _libraries(binary: pathlib.Path, root: RootFs) -> None:
    listed = subprocess.run(["ldd", binary], capture_output=True, text=True)
    # It says so, and fails, where a binary is static.
    for path in re.findall(r"(/\S+) \(0x", listed.stdout):
        root.files[path] = (pathlib.Path(path), 0o755)
    if "not found" in listed.stdout:
        raise Failure(f"{binary} needs libraries that this machine lacks:\n{listed.stdout}")


def _people(root: RootFs) -> None:
    users = f"root:x:0:0::/:/bin/sh\nnobody:x:{NOBODY}:{NOBODY}::/tmp:/bin/false\n"
    root.files["/etc/passwd"] = (users.encode(), 0o644)
    root.files["/etc/group"] = (f"root:x:0:\nnobody:x:{NOBODY}:\n".encode(), 0o644)
    root.folders["/tmp"] = 0o1777
    if CERTIFICATES.exists():
        root.files[str(CERTIFICATES)] = (CERTIFICATES, 0o644)


def of_program(target: pathlib.Path, name: str, binary: pathlib.Path) -> None:
    """Writes the image of a program: it is the entrypoint, and runs as nobody."""
    if not binary.is_file():
        raise Failure(f"there is no program {binary}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        program = _stripped(binary, pathlib.Path(folder))
        write(target, name, of_binary(program), [f"/usr/local/bin/{binary.name}"], user=NOBODY)


def _stripped(binary: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A copy of a program without what only debuggers read, where `strip` is there to make it."""
    if packages.find("strip") is None:
        return binary
    copy = folder / binary.name
    subprocess.run(["strip", "--strip-debug", "-o", copy, binary], check=True)
    return copy


def full_name(name: str) -> str:
    """The name by which containerd knows what a pod calls `name`."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def write(target: pathlib.Path, name: str, root: RootFs, entrypoint: list[str], user: int = 0) -> None:
    """Writes an image as a tar of an OCI layout.

    Without an entrypoint a pod's arguments are its command, and a shell is where it has none.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        layer = pathlib.Path(folder) / "layer"
        root.write(layer)
        with layer.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        machine = platform.machine()
        config = _json(
            {
                "architecture": ARCHITECTURES.get(machine, machine),
                "os": "linux",
                "config": {
                    **({"Entrypoint": entrypoint} if entrypoint else {"Cmd": ["/bin/sh"]}),
                    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
                    "User": f"{user}:{user}",
                    "WorkingDir": "/",
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            }
        )
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
                "layers": [
                    {
                        "mediaType": "application/vnd.oci.image.layer.v1.tar",
                        "digest": f"sha256:{digest}",
                        "size": layer.stat().st_size,
                    }
                ],
            }
        )
        named = _descriptor(MANIFEST, manifest) | {"annotations": {"io.containerd.image.name": full_name(name)}}
        files = RootFs()
        files.files = {
            "/oci-layout": (_json({"imageLayoutVersion": "1.0.0"}), 0o644),
            "/index.json": (_json({"schemaVersion": 2, "manifests": [named]}), 0o644),
            _blob(config): (config, 0o644),
            _blob(manifest): (manifest, 0o644),
            f"/blobs/sha256/{digest}": (layer, 0o644),
        }
        unfinished = pathlib.Path(folder) / "image"
        files.write(unfinished)
        shutil.move(unfinished, target)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _blob(content: bytes) -> str:
    return f"/blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}


def load(layout: Layout, name: str, tar: pathlib.Path) -> None:
    """Imports a tar, and gives the image in it the name that pods use.

    A tar of ours carries its name. In one from elsewhere, `docker save` or a build tool, the index is given the name.
    """
    before = set(_listed(layout))
    named = ["--index-name", full_name(name)] if not _carries(tar, full_name(name)) else []
    done = subprocess.run(services.ctr(layout, "images", "import", *named, str(tar)), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"containerd does not take {tar}: {done.stderr.strip()}")
    if full_name(name) not in _listed(layout):
        raise Failure(f"containerd took {tar}, but there is no {name} then; new is {set(_listed(layout)) - before}")


def _listed(layout: Layout) -> list[str]:
    done = subprocess.run(services.ctr(layout, "images", "list", "-q"), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"containerd does not list its images: {done.stderr.strip()}")
    return done.stdout.split()


def _carries(tar: pathlib.Path, name: str) -> bool:
    with tarfile.open(tar) as opened:
        try:
            index = opened.extractfile("index.json")
        except KeyError:
            return False
        manifests = json.load(index)["manifests"] if index else []
    return any(it.get("annotations", {}).get("io.containerd.image.name") == name for it in manifests)
