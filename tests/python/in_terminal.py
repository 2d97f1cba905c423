"""Runs a command in a terminal of its own, 120 columns wide, and copies what appears there to standard output.
TERMINAL_SIZE=ROWSxCOLUMNS gives it another size.

    in_terminal.py COMMAND ARGUMENT…      SIGUSR1 presses Ctrl+C in the terminal; the exit code is the command's
"""

import fcntl
import os
import pty
import signal
import struct
import sys
import termios

rows, columns = map(int, os.environ.get("TERMINAL_SIZE", "40x120").split("x"))
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGUSR1, lambda *_: os.write(terminal, b"\x03"))
while True:
    try:
        shown = os.read(terminal, 65536)
    except OSError:
        break
    if not shown:
        break
    os.write(1, shown)
_, status = os.waitpid(pid, 0)
code = os.waitstatus_to_exitcode(status)
sys.exit(code if code >= 0 else 128 - code)
