"""Starting processes that outlive the command, and stopping those and no others.

A process that was started has a file `pids/<name>` that tells its number, when it started, and in which boot of the
machine. It is signalled only while all three hold, so a number that was given to another process since is never hit.
A signal goes through a pidfd, opened before the check, so this holds even if the process ends in between.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess

from layout import Layout
from packages import find
from talk import Failure, TimedOut, last_lines, until

GRACE_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Identity:
    """Which process a number means. Of all processes of a machine, only one ever has this value."""

    pid: int
    started: int
    """In clock ticks since the boot."""
    boot: str


def _boot() -> str:
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Identity | None:
    """The identity of a process that lives now; one that waits to be reaped does not."""
    try:
        # The second field is the program's name in parentheses, and may itself hold spaces and parentheses.
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started = fields[0], int(fields[19])
    return None if state in "ZX" else Identity(pid, started, _boot())


def send(identity: Identity, number: signal.Signals) -> bool:
    """Signals the process if it is still the one that is meant; says whether it was."""
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if identify(identity.pid) != identity:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def end(identities: list[Identity], grace_seconds: float = GRACE_SECONDS) -> None:
    """Asks processes to end, kills those that have not after the grace, and returns when none is left."""

    def all_gone() -> bool:
        return all(identify(identity.pid) != identity for identity in identities)

    if grace_seconds > 0:
        for identity in identities:
            send(identity, signal.SIGTERM)
            # One that is frozen cannot end otherwise.
            send(identity, signal.SIGCONT)
        try:
            until("processes to end", all_gone, grace_seconds, every=0.05)
            return
        except TimedOut:
            pass
    for identity in identities:
        send(identity, signal.SIGKILL)
    until(f"killed processes to be gone: {identities}", all_gone, 30, every=0.05)


def environment(layout: Layout) -> dict[str, str]:
    """What components see: nothing of the user's settings, no proxy above all."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(layout.folder),
    }


def start(layout: Layout, name: str, command: list[str]) -> Identity:
    """Starts a component, unless it runs. Its output is appended to its log."""
    if (running := recorded(layout, name)) is not None:
        return running
    program = command[0] if "/" in command[0] else find(command[0])
    if program is None:
        raise Failure(f"{name}: there is no program {command[0]}")
    with layout.log(name).open("ab") as log:
        process = subprocess.Popen(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment(layout),
            start_new_session=True,
        )
    identity = identify(process.pid)
    # The child is ours and not waited for, so its number cannot be another's yet. None: it has ended already.
    if identity is None:
        raise Failure(f"{name} ended at once; the end of its log:\n{last_lines(layout.log(name))}")
    file = layout.pids / name
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(dataclasses.asdict(identity)))
    unfinished.rename(file)
    return identity


def read(file: pathlib.Path) -> Identity | None:
    """What a pid file says, whether or not the process lives."""
    try:
        return Identity(**json.loads(file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def recorded(layout: Layout, name: str) -> Identity | None:
    """The component's process, where it lives."""
    identity = read(layout.pids / name)
    return identity if identity is not None and identify(identity.pid) == identity else None


def all_recorded(layout: Layout) -> dict[str, Identity]:
    """Every process that lives of those that were started."""
    names = [file.name for file in layout.pids.glob("*") if file.suffix != ".unfinished"]
    return {name: identity for name in sorted(names) if (identity := recorded(layout, name)) is not None}


def signal_component(layout: Layout, name: str, number: signal.Signals) -> None:
    """Signals a component, which must run."""
    identity = recorded(layout, name)
    if identity is None or not send(identity, number):
        raise Failure(f"{name} does not run")


def stop(layout: Layout, name: str, grace_seconds: float = 30) -> None:
    """Ends a component and waits until it has; nothing where it does not run."""
    identity = recorded(layout, name)
    if identity is not None:
        end([identity], grace_seconds)
    (layout.pids / name).unlink(missing_ok=True)


def of_command(wanted: list[bytes]) -> list[Identity]:
    """The processes whose command line holds these arguments, one after the other."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        identity = identify(int(folder.name))
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        places = range(len(arguments) - len(wanted) + 1)
        if identity is not None and any(arguments[at : at + len(wanted)] == wanted for at in places):
            found.append(identity)
    return found
