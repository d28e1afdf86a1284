"""Two Ray nodes on this machine, as a process of its own: prints its address, removes a node at each line it reads."""

from __future__ import annotations

import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    print(f"{cluster.address} {other.raylet_socket_name}", flush=True)
    try:
        for _ in sys.stdin:
            cluster.remove_node(other, allow_graceful=False)
            print("removed", flush=True)
    finally:
        cluster.shutdown()


main()
