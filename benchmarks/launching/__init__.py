"""Launchers: run training processes on this machine (``local``) or on a Ray cluster (``ray``).

launcher            the interface
local_launcher      worker processes of this machine
ray_launcher        tasks of a Ray cluster; ray_nodes checks its nodes, ray_tasks is what runs on them
choice              launchers by name
"""

from .choice import NAMES, make_launcher
from .launcher import Launcher

__all__ = ["NAMES", "Launcher", "make_launcher"]
