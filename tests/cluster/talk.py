"""Telling people what happens: steps with their times, and failures with what a person needs to act.

A `Failure` is an error whose text is complete; the command prints it and exits with status 1, without a traceback.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator


class Failure(Exception):
    """Something that a person must know or mend, in words."""


def say(text: str) -> None:
    """Prints a line about progress, in the form that `scripts/step` uses."""
    print(f"==> {text}", flush=True)


def warn(text: str) -> None:
    """Prints a line about something that is wrong and does not stop us."""
    print(f"==> {text}", file=sys.stderr, flush=True)


class TimedOut(Failure):
    """A wait that was in vain."""


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Says how long what is inside took, or that it failed."""
    started = time.monotonic()
    try:
        yield
    except BaseException:
        warn(f"{name}: FAILED after {time.monotonic() - started:.1f} s")
        raise
    say(f"{name}: {time.monotonic() - started:.1f} s")


def last_lines(path: pathlib.Path, count: int = 20) -> str:
    """The end of a log, indented; says so where there is none."""
    try:
        lines = path.read_text(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return f"  (there is no {path})"
    return "\n".join(f"  {line}" for line in lines) or f"  ({path} is empty)"


def until(what: str, condition: Callable[[], object], seconds: float, every: float = 0.1) -> object:
    """Waits until `condition` returns something true and returns that; raises `TimedOut`, which tells `what`, after
    `seconds`.

    An OSError in the condition (a refused connection, a file that is not there yet) counts as false. The last one is
    told when time is up.
    """
    deadline = time.monotonic() + seconds
    problem: OSError | None = None
    while True:
        try:
            if found := condition():
                return found
            problem = None
        except OSError as error:
            problem = error
        if time.monotonic() >= deadline:
            raise TimedOut(f"after {seconds:.0f} s still waiting for {what}" + (f": {problem}" if problem else ""))
        time.sleep(every)
