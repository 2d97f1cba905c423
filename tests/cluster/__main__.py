"""The command line: `python3 tests/cluster COMMAND`."""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
import sys
import tempfile
from collections.abc import Callable

sys.dont_write_bytecode = True

import components
import down
import evidence
import faults
import images
import layout as at
import selftest
import up
import volumes
from layout import Layout
from talk import Failure, say, step

# What a command does; its exit status is 0 where it returns none.
Run = Callable[[Layout, argparse.Namespace], int | None]

DESCRIPTION = """\
A whole Kubernetes on this machine: etcd, the API server, controllers, scheduler, kubelet, kube-proxy, DNS and
containerd, one node, from Go modules of pinned versions. See docs/cluster.md."""

EXAMPLES = """\
examples:
  python3 tests/cluster up                                 start it, after building what is missing
  eval "$(python3 tests/cluster env)"                      let kubectl and helm find it
  python3 tests/cluster image millrace --binary target/debug/millrace
                                                           an image of a program and its libraries, loaded
  python3 tests/cluster load web.test/app:1 app.tar        load what a build tool wrote
  python3 tests/cluster kill apiserver                     a fault
  python3 tests/cluster start apiserver                    and its end
  python3 tests/cluster freeze web-errors-0                stop a pod's processes; thaw lets them go on
  python3 tests/cluster logs kubelet -n 50                 look into a component's log
  python3 tests/cluster down                               remove all of it but the built binaries
"""


def parser() -> argparse.ArgumentParser:
    """Every command, with its arguments and what it does."""
    top = argparse.ArgumentParser(
        prog="python3 tests/cluster",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--dir", type=pathlib.Path, help="the cluster's folder (default: $CACHE/cluster/run)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, does: str, run: Run) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=does, description=does)
        sub.set_defaults(run=run)
        return sub

    command("build", "build the components that are missing", lambda _, __: components.build())
    command("up", "start the cluster, unless it is up", _locked(lambda it, _: up.up(it)))
    command("down", "stop it and remove all it left", _locked(lambda it, _: down.down(it)))
    command("status", "say which parts run; the exit status is 1 unless all do", _status)
    command("env", "print settings for a shell: KUBECONFIG, and PATH with kubectl and helm", _env)

    load = command("load", "load an image into the cluster", _load)
    load.add_argument("name", metavar="NAME", help="what pods call it")
    load.add_argument("source", metavar="TAR|ROOTFS", type=pathlib.Path, help="an OCI or Docker tar, or a root folder")
    load.add_argument("--entrypoint", help="of a ROOTFS (default: what the pod says, else /bin/sh)")

    image = command("image", "make an image of a program and the libraries it loads, and load it", _image)
    image.add_argument("name", metavar="NAME", help="what pods call it")
    image.add_argument("--binary", type=pathlib.Path, required=True, metavar="PATH")
    image.add_argument("--output", type=pathlib.Path, metavar="TAR", help="write it there, and do not load it")

    logs = command("logs", "print the end of components' logs", _logs)
    logs.add_argument("components", nargs="*", metavar="COMPONENT")
    logs.add_argument("-n", "--lines", type=int, default=20)
    logs.add_argument("-f", "--follow", action="store_true")
    collect = command("collect", "copy logs, objects and events to a folder", _collect)
    collect.add_argument("folder", type=pathlib.Path)

    for name, does, fault in (
        ("stop", "end a component and leave it so", faults.stop),
        ("kill", "kill a component and leave it so", faults.kill),
        ("start", "start a component that was stopped, and wait until it is ready", faults.start),
    ):
        fails = command(name, does, lambda it, arguments, fault=fault: fault(it, faults.component(arguments.component)))
        fails.add_argument("component", metavar="COMPONENT", help="etcd, apiserver, kubelet, …: see status")
    for name, does, number in (
        ("freeze", "stop a pod's processes (SIGSTOP)", faults.FREEZE),
        ("thaw", "let a frozen pod's processes go on (SIGCONT)", faults.THAW),
        ("signal", "send a pod's processes a signal", None),
    ):
        fails = command(name, does, lambda it, arguments, number=number: _signal(it, arguments, number))
        if number is None:
            fails.add_argument("number", metavar="SIGNAL", type=_signal_number, help="KILL, TERM, USR1, …")
        fails.add_argument("pod", metavar="POD")
        fails.add_argument("-n", "--namespace", default="default")
        fails.add_argument("-c", "--container", help="only this one of its containers")

    pids = command("pids", "print the numbers of a pod's processes, as this machine knows them", _pids)
    pids.add_argument("pod", metavar="POD")
    pids.add_argument("-n", "--namespace", default="default")

    test = command("selftest", "show that a cluster works: up, every feature that tests use, down", _selftest)
    test.add_argument("--binary", type=pathlib.Path, metavar="PATH", help="a program whose image is to run as well")
    commands.add_parser("serve-volumes").set_defaults(run=lambda it, _: volumes.serve(it))
    return top


def _signal_number(name: str) -> signal.Signals:
    try:
        return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no signal {name}") from None


def _locked(run: Run) -> Run:
    def locked(layout: Layout, arguments: argparse.Namespace) -> int | None:
        with up.lock():
            return run(layout, arguments)

    return locked


def _status(layout: Layout, _: argparse.Namespace) -> int:
    return 0 if evidence.status(layout) else 1


def _env(layout: Layout, _: argparse.Namespace) -> None:
    folders = ":".join(str(components.binary(name).parent) for name in ("kubectl", "helm"))
    print(f'export KUBECONFIG="{layout.kubeconfig}"')
    # What kubectl remembers of one cluster would be wrong of the next one, which has the same address.
    print(f'export KUBECACHEDIR="{layout.folder}/kubectl-cache"')
    print(f'export PATH="{folders}:$PATH"')


def _load(layout: Layout, arguments: argparse.Namespace) -> None:
    if not arguments.source.is_dir():
        images.load(layout, arguments.name, arguments.source)
        return
    with tempfile.TemporaryDirectory() as folder:
        tar = pathlib.Path(folder) / "image.tar"
        entrypoint = [arguments.entrypoint] if arguments.entrypoint else []
        images.write(tar, arguments.name, images.of_folder(arguments.source), entrypoint)
        images.load(layout, arguments.name, tar)


def _image(layout: Layout, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder, step(f"Image {arguments.name}"):
        tar = arguments.output or pathlib.Path(folder) / "image.tar"
        images.of_program(tar, arguments.name, arguments.binary)
        say(f"{arguments.name} has {tar.stat().st_size / 1e6:.0f} MB")
        if not arguments.output:
            images.load(layout, arguments.name, tar)


def _logs(layout: Layout, arguments: argparse.Namespace) -> None:
    names = [faults.component(name) for name in arguments.components]
    evidence.logs(layout, names, arguments.lines, arguments.follow)


def _collect(layout: Layout, arguments: argparse.Namespace) -> None:
    evidence.collect(layout, arguments.folder)


def _signal(layout: Layout, arguments: argparse.Namespace, number: signal.Signals | None) -> None:
    number = number or arguments.number
    count = faults.signal_pod(layout, arguments.namespace, arguments.pod, arguments.container, number)
    say(f"{number.name} to {count} processes of {arguments.namespace}/{arguments.pod}")


def _pids(layout: Layout, arguments: argparse.Namespace) -> None:
    for pid in faults.pids(layout, arguments.namespace, arguments.pod):
        print(pid)


def _selftest(layout: Layout, arguments: argparse.Namespace) -> int:
    return selftest.run(layout, arguments.binary)


def main() -> int:
    """Runs one command; its exit status is 1 after a failure, which is told in words."""
    arguments = parser().parse_args()
    try:
        layout = Layout(arguments.dir.resolve()) if arguments.dir else at.default()
        return arguments.run(layout, arguments) or 0
    except (Failure, ValueError) as failure:
        print(f"cluster: {failure}", file=sys.stderr)
        return 1
    except FileNotFoundError as missing:
        print(f"cluster: there is no {missing.filename}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os._exit(1)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
