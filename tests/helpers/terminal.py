"""A terminal emulator, for tests of commands that move the cursor."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from tests.helpers.commands import ROOT, command_environment

REDRAW = b"\r\x1b[2K"  # rich starts with this to erase its previous output
_TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class Screen:
    """The lines that are visible after all output so far; understands the escape sequences that `rich` uses."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        """Process output."""
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
                assert command in "mhl", f"unknown escape sequence {arguments}{command}"


def watch(*arguments: object, columns: int = 120) -> tuple[int, list[list[str]]]:
    """Run the benchmarks in a terminal. Returns the exit status and the screens: before each redraw, and the last
    one.
    """
    own_end, process_end = pty.openpty()
    fcntl.ioctl(process_end, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    environment = command_environment()
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        env={**environment, "TERM": "xterm-256color"},
        stdin=process_end,
        stdout=process_end,
        stderr=process_end,
        start_new_session=True,
    )
    os.close(process_end)
    screen, screens, pending = Screen(), [], b""
    while True:
        try:
            pending += os.read(own_end, 65536)
        except OSError:  # the process has closed its end
            break
        *whole, pending = pending.split(REDRAW)
        for frame in whole:
            screen.feed(frame.decode())
            screens.append([line.rstrip() for line in screen.lines])
            screen.feed(REDRAW.decode())
    screen.feed(pending.decode())
    os.close(own_end)
    return process.wait(), [*screens, [line.rstrip() for line in screen.lines]]
