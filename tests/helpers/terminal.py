"""A terminal: what a person sees of a command that moves the cursor."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from tests.helpers.commands import ROOT

REDRAW = b"\r\x1b[2K"  # with which rich begins to wipe what it drew before
_TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class Screen:
    """ProgressLines as they stand after all that was printed so far; knows what `rich` uses."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        """Print."""
        for arguments, command, control, plain in _TOKEN.findall(text):
            if plain:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + plain + line[self.column + len(plain) :]
                self.column += len(plain)
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
            elif command == "A":
                self.row -= int(arguments or 1)
            elif command == "K":
                self.lines[self.row] = ""
            else:
                assert command in "mhl", f"the terminal does not know {arguments}{command}"


def watch(*arguments: object, columns: int = 120) -> tuple[int, list[list[str]]]:
    """Run the benchmarks in a terminal. Returns the exit status, and what was shown: before each redraw, and last."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        env={"OMP_NUM_THREADS": "1", **environment, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen, seen, waiting = Screen(), [], b""
    while True:
        try:
            waiting += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        *whole, waiting = waiting.split(REDRAW)
        for frame in whole:
            screen.feed(frame.decode())
            seen.append([line.rstrip() for line in screen.lines])
            screen.feed(REDRAW.decode())
    screen.feed(waiting.decode())
    os.close(ours)
    return process.wait(), [*seen, [line.rstrip() for line in screen.lines]]
