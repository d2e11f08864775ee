"""A real Ray cluster on this machine's loopback addresses, one process group for each node.

cluster = Cluster.start(tmp_folder)            # a head on 127.0.0.1 with one core
node = cluster.add("127.0.0.2")                # another node with one core
node.lose()                                    # as a machine that is switched off
cluster.close()
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import httpx
import psutil
import pytest
from real_worker import Place
from storage_servers import free_port

PATIENCE_SECONDS = 400.0
# What the cluster's own environment has for its servers; a test that serves asks with it.
API_KEY = "the-cluster-has-this-key"
_MEMORY_BYTES = 100 * 2**20
_TRIES = 4


@dataclass(frozen=True)
class Node:
    """One node: ``ray start --block``, below which all of its processes are."""

    process: subprocess.Popen[bytes]

    def lose(self) -> None:
        """Kill everything at once."""
        top = psutil.Process(self.process.pid)
        tree = [*top.children(recursive=True), top]
        # Nobody of them shall see another one go, and say so.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for one in tree:
                try:
                    one.send_signal(number)
                except psutil.NoSuchProcess:
                    continue
        self.process.wait()


@dataclass
class Cluster:
    """A head and other nodes."""

    folder: Path
    port: int
    dashboard: str
    environment: dict[str, str]
    nodes: list[Node] = field(default_factory=list)

    @classmethod
    def start(cls, cpus: int = 1) -> Cluster:
        """Start the head, and wait until its dashboard answers."""
        pytest.importorskip("ray")
        # Paths of sockets must be short.
        folder = Path(tempfile.mkdtemp(prefix="ray-"))
        place = folder / "place"
        place.mkdir()
        environment = {
            **os.environ,
            # `python` of a job's command is this one.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "TUNESMITH_CACHE": str(Place.make(place).folder / "cache"),
            "TUNESMITH_API_KEY": API_KEY,
        }
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            environment.pop(name, None)
        port, dashboard = free_port(), free_port()
        cluster = cls(folder, port, f"http://127.0.0.1:{dashboard}", environment)
        head = [f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        try:
            client = f"--ray-client-server-port={free_port()}"
            cluster._start("127.0.0.1", cpus, "--head", *head, client, f"--temp-dir={folder}")
        except BaseException:
            cluster.close()
            raise
        return cluster

    def add(self, address: str, cpus: int = 1) -> Node:
        """Start another node, and wait until the cluster knows it."""
        return self._start(address, cpus, f"--address=127.0.0.1:{self.port}")

    def alive(self) -> int:
        """How many nodes the cluster counts."""
        try:
            answer = httpx.get(f"{self.dashboard}/api/v0/nodes", timeout=10, trust_env=False)
        except httpx.HTTPError:
            return 0
        if answer.status_code != 200:
            return 0
        return sum(node["state"] == "ALIVE" for node in answer.json()["data"]["result"]["result"])

    def close(self) -> None:
        """End all nodes."""
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.lose()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, address: str, cpus: int, *how: str) -> Node:
        known = self.alive()
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={address}"]
        own = [f"--num-cpus={cpus}", f"--object-store-memory={_MEMORY_BYTES}", *how]
        log = self.folder / f"node-{address}.log"
        # Ray gives up on a node of its own that is not there after 30 seconds; on a busy machine that happens.
        for tries_left in reversed(range(_TRIES)):
            with log.open("wb") as said:
                process = subprocess.Popen(
                    [*command, *own, f"--dashboard-agent-listen-port={free_port()}"],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                )
            node = Node(process)
            self.nodes.append(node)
            end = time.monotonic() + PATIENCE_SECONDS
            while process.poll() is None and self.alive() <= known:
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.5)
            if process.poll() is None:
                return node
            assert tries_left, log.read_text()
            self.nodes.remove(node)
        raise AssertionError(log.read_text())


@cache
def one_node() -> Cluster:
    """The one cluster of this test session that has one node."""
    cluster = Cluster.start()
    atexit.register(cluster.close)
    return cluster
