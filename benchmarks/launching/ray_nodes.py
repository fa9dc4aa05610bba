"""Checks that the nodes of a Ray cluster can execute runs: they see the folder of results and have the same
versions.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from .. import provenance
from ..errors import CannotRun

TIMEOUT = 120  # seconds; a node may import torch for the first time


def check_nodes(ray: Any, out: Path) -> None:
    """Check all nodes of the cluster.

    Raises:
        CannotRun: a node does not see the folder ``out``, has other versions, or does not answer. The message names it.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = out / f".seen-by-all-nodes-{uuid.uuid4().hex}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        token.write_text(token.name)
    except OSError as error:
        raise CannotRun(f"Cannot write to {out}: {error}.") from error
    try:
        asked = {}
        node_status = ray.remote(_node_status)
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = node_status.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(token)
                asked[task] = node["NodeManagerAddress"]
        here = provenance.versions()
        for task, address in asked.items():
            try:
                seen, versions = ray.get(task, timeout=TIMEOUT)
            except ray.exceptions.RayError as error:
                raise CannotRun(_failure_text(address, error)) from None
            if not seen:
                raise CannotRun(
                    f"The Ray node {address} does not see {out}: give --out a folder on a file system that all nodes "
                    "share, under the same path."
                )
            if versions != here:
                raise CannotRun(
                    f"The Ray node {address} has {_text(versions)}; here is {_text(here)}. Install the same versions."
                )
    finally:
        token.unlink(missing_ok=True)


def _node_status(token: Path) -> tuple[bool, dict[str, str]]:
    """Executed on a node: whether it sees the file, and its versions."""
    return token.is_file() and token.read_text() == token.name, provenance.versions()


def _failure_text(address: str, error: Exception) -> str:
    """A one-line description of why a node did not answer."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, ModuleNotFoundError):
        return f"The Ray node {address} has no {cause.name}: pip install torch-gnt there, in the same version."
    last = (str(error).strip().splitlines() or [""])[-1]
    return f"The Ray node {address} does not answer ({type(error).__name__}: {last})."


def _text(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
