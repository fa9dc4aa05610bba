"""Starts a Ray cluster of two nodes with one CPU each on this machine: ``python -m tests.helpers.ray_cluster``.

Prints the cluster's address and ends with its standard input. Ray's files are written to RAY_TMPDIR. What the tests do
not need is left out: each of Ray's services is a Python process with slow imports.
"""

from __future__ import annotations

import os
import sys

import ray._private.utils
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_log_monitor": False}


def main() -> None:
    os.makedirs(os.path.join(os.environ["RAY_TMPDIR"], "ray"))
    if hasattr(ray._private.utils, "get_dashboard_dependency_error"):
        # as if Ray's optional dependencies were missing: the agents of the nodes then serve no dashboard
        ray._private.utils.get_dashboard_dependency_error = lambda: ImportError("left out")
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "no_monitor": True})
    try:
        cluster.add_node(**NODE)
        print("address", cluster.address, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
