"""Starts a Ray cluster of two nodes with one CPU each on this machine: ``python -m tests.helpers.ray_cluster``.

Prints the cluster's address and ends with its standard input. Ray's files are written to RAY_TMPDIR.
"""

from __future__ import annotations

import os
import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def main() -> None:
    os.makedirs(os.path.join(os.environ["RAY_TMPDIR"], "ray"))
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        cluster.add_node(**NODE)
        print("address", cluster.address, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
