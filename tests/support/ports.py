"""Free ports for servers that are told where to listen."""

import socket


def free_port() -> int:
    """A port that leaves room for a cluster node's bus, which listens 10,000 above it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_536:
            return port
