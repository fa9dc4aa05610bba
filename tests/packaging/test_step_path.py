"""`scripts/step_path.py`: a step runs through no more files of gnt than its limits allow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.commands import command_environment

CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[2])


def test_steps_run_through_no_more_files_than_their_limits() -> None:
    command = [sys.executable, CHECKOUT / "scripts" / "step_path.py", "--files"]
    done = subprocess.run(command, env=command_environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "    gnt/replacement/_step.py" in done.stdout
