"""Redis in every shape that it is run in: single servers with any configuration, clusters, primaries under Sentinel."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from ports import free_port
from redis.crc import key_slot

from headrace_cli.embedded_redis import find_server
from headrace_cli.orphans import tied

_IN_MEMORY = ("save ''", "appendonly no")
SLOTS = 16384


def until(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """Poll; fails the test with ``what`` when it does not come true in time. An unreachable server is not true."""
    end = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < end, f"gave up waiting until {what}"
        time.sleep(0.02)


class RedisServer:
    """One process on a loopback port of its own, configured by ``lines``."""

    def __init__(self, folder: Path, *lines: str, sentinel: bool = False) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        config = [f"port {self.port}", "bind 127.0.0.1", f'dir "{folder}"', *lines]
        (folder / "redis.conf").write_text("\n".join(config) + "\n")

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [str(find_server()), str(self._folder / "redis.conf"), *(["--sentinel"] if self._sentinel else [])]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(tied(command, signal.SIGTERM), stdout=log, stderr=log, cwd=self._folder)
        until(self._answers, f"the server starts: {(self._folder / 'log').read_text()[-500:]}")

    def kill(self) -> None:
        """As a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def suspend(self) -> None:
        """It hangs, and its connections stay open, until ``resume``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def run(self, *command: str | int) -> Any:
        """One command over a connection of its own, in redis-py's reading."""
        with redis.Redis(port=self.port, decode_responses=True, socket_timeout=5) as client:
            return client.execute_command(*command)

    def info(self, name: str) -> str:
        return str(self.run("INFO")[name])

    def _answers(self) -> bool:
        with contextlib.suppress(redis.AuthenticationError):
            self.run("PING")
        return True


class RedisCluster:
    """Primaries with equal shares of the slots, each with the same number of replicas."""

    def __init__(self, primaries: list[RedisServer], replicas: list[RedisServer]) -> None:
        self.primaries = primaries
        self.replicas = replicas

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.primaries[:2])

    def owner(self, key: str) -> RedisServer:
        """The server that has this key now, by its own account."""
        for server in (*self.primaries, *self.replicas):
            with contextlib.suppress(redis.ConnectionError):
                mine = server.run("CLUSTER", "MYID")
                for first, last, primary, *_ in _slots(server):
                    if first <= key_slot(key.encode()) <= last and primary[2] == mine:
                        return server
        raise AssertionError("no server has this key")

    def flush(self) -> None:
        for server in self.primaries:
            server.run("FLUSHALL")

    def move_at_once(self, key: str, target: RedisServer) -> None:
        """As Valkey does since 9.0: the slot with all its keys, in one moment."""
        source, slot = self.owner(key), key_slot(key.encode())
        source.run("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.run("CLUSTER", "MYID"))
        until(lambda: self.owner(key) is target, "the slot has moved")

    def move_by_keys(self, key: str, target: RedisServer, pause_s: float = 0.0) -> None:
        """As every version does: key by key, in as much time as ``pause_s`` between them makes of it."""
        source, slot = self.owner(key), key_slot(key.encode())
        source_id, target_id = source.run("CLUSTER", "MYID"), target.run("CLUSTER", "MYID")
        target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while names := source.run("CLUSTER", "GETKEYSINSLOT", slot, 1):
            source.run("MIGRATE", "127.0.0.1", target.port, names[0], 0, 5000)
            time.sleep(pause_s)
        for server in (target, source, *self.primaries):
            server.run("CLUSTER", "SETSLOT", slot, "NODE", target_id)


def _slots(server: RedisServer) -> list[Any]:
    with redis.Redis(port=server.port, decode_responses=True, socket_timeout=5) as client:
        # In two words, which redis-py leaves as it is.
        found: list[Any] = client.execute_command("CLUSTER", "SLOTS")
        return found


@contextmanager
def running_cluster(folder: Path, primaries: int = 3, replicas: int = 0, *lines: str) -> Iterator[RedisCluster]:
    """``replicas`` for each primary."""
    with ExitStack() as stack:
        servers, buses = [], []
        for n in range(primaries * (1 + replicas)):
            buses.append(free_port())
            config = (
                *_IN_MEMORY,
                "cluster-enabled yes",
                f"cluster-port {buses[-1]}",
                "cluster-node-timeout 1500",
                "cluster-replica-validity-factor 0",
                "repl-diskless-sync-delay 0",
                *lines,
            )
            servers.append(stack.enter_context(RedisServer(folder / f"node{n}", *config)))
        for n, server in enumerate(servers):
            server.run("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            if n < primaries:
                first, last = n * SLOTS // primaries, (n + 1) * SLOTS // primaries - 1
                server.run("CLUSTER", "ADDSLOTSRANGE", first, last)
            for other, bus in zip(servers[:n], buses, strict=False):
                server.run("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
        for server in servers:
            until(lambda server=server: len(_slots(server)) == primaries, "the nodes know each other")
        cluster = RedisCluster(servers[:primaries], servers[primaries:])
        for n, replica in enumerate(cluster.replicas):
            primary_id = cluster.primaries[n % primaries].run("CLUSTER", "MYID")
            until(lambda r=replica, p=primary_id: r.run("CLUSTER", "REPLICATE", p), "the replica knows its primary")
            until(lambda r=replica: r.info("master_link_status") == "up", "the replica is in step")
        for server in servers:
            until(lambda s=server: "cluster_state:ok" in s.run("CLUSTER", "INFO"), "the cluster is well")
        yield cluster


class SentinelGroup:
    """A primary, its replica and sentinels; ``primary`` and ``replica`` are what they were at the start."""

    service = "requests"

    def __init__(self, primary: RedisServer, replica: RedisServer, sentinels: list[RedisServer]) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.service}/0"

    def announce(self, primary_port: int, replica_port: int) -> None:
        """Have the sentinels know both servers by these ports, which lead to them."""
        self.replica.run("CONFIG", "SET", "replica-announce-port", replica_port)
        self.primary.run("CLIENT", "KILL", "TYPE", "replica")  # it says its port when it comes back
        for sentinel in self.sentinels:
            sentinel.run("SENTINEL", "REMOVE", self.service)
            sentinel.run("SENTINEL", "MONITOR", self.service, "127.0.0.1", primary_port, len(self.sentinels) // 2 + 1)
            sentinel.run("SENTINEL", "SET", self.service, "failover-timeout", 3000)
            until(
                lambda s=sentinel: self._knows_replica(s, replica_port),
                "the sentinel knows the replica by its new port",
            )

    def promote(self, port: int | None = None) -> None:
        """An orderly failover; returns when it is done. ``port``: by which the replica was announced."""
        # A sentinel gives a failover up that a busy machine makes too slow, and says nothing.
        self._ask_for_failover()
        try:
            self.wait_for(self.replica, port, timeout_s=10)
        except AssertionError:
            self._ask_for_failover()
            self.wait_for(self.replica, port)

    def _ask_for_failover(self) -> None:
        until(lambda: self.sentinels[0].run("SENTINEL", "FAILOVER", self.service), "the sentinel takes the replica")

    def wait_for(self, server: RedisServer, port: int | None = None, timeout_s: float = 20.0) -> None:
        """Until every sentinel says that this is the primary, and it says so too."""
        for sentinel in self.sentinels:
            until(lambda s=sentinel: self._primary_port(s) == (port or server.port), "the sentinels agree", timeout_s)
        until(lambda: server.info("role") == "master", "the new primary knows it", timeout_s)

    def _knows_replica(self, sentinel: RedisServer, port: int) -> bool:
        found = sentinel.run("SENTINEL REPLICAS", self.service)
        return any(str(port) in replica for replica in found)

    def _primary_port(self, sentinel: RedisServer) -> int:
        with redis.Redis(port=sentinel.port, decode_responses=True) as client:
            return int(client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self.service)[1])


@contextmanager
def running_sentinels(folder: Path, sentinels: int = 1) -> Iterator[SentinelGroup]:
    with ExitStack() as stack:
        common = (*_IN_MEMORY, "repl-diskless-sync-delay 0", "repl-backlog-size 10mb")
        primary = stack.enter_context(RedisServer(folder / "first", *common))
        replica = stack.enter_context(RedisServer(folder / "second", *common, f"replicaof 127.0.0.1 {primary.port}"))
        until(lambda: replica.info("master_link_status") == "up", "the replica is in step")
        service = SentinelGroup.service
        watchers = []
        for n in range(sentinels):
            config = (
                f"sentinel monitor {service} 127.0.0.1 {primary.port} {sentinels // 2 + 1}",
                f"sentinel down-after-milliseconds {service} 700",
                f"sentinel failover-timeout {service} 3000",
            )
            watchers.append(stack.enter_context(RedisServer(folder / f"sentinel{n}", *config, sentinel=True)))
        group = SentinelGroup(primary, replica, watchers)
        for sentinel in watchers:
            until(lambda s=sentinel: len(s.run("SENTINEL REPLICAS", service)) == 1, "the sentinel knows the replica")
        yield group
