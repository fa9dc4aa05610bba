"""A Ray cluster of two nodes with one CPU each on this machine, in a process of its own: prints its address, and ends
with its standard input. ``python -m tests.ray_cluster FOLDER``
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "temp_dir": sys.argv[1]})
    try:
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        print(cluster.address, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
