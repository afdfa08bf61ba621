"""Runs an application until a signal."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from mindsora.errors import InputError, shown

CONNECTIONS = 200  # more get 503
IDLE_SECONDS = 10  # that a connection without a request stays


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that has been heeded is not raised again: an orderly end has status 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any.

    Raises:
        InputError: the port is taken, or no address of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), port), family=family)
    except OSError as error:
        raise InputError(f"cannot listen on {shown(host)}, port {port}: {error.strerror}; name another") from error


def serve(app, listener: socket.socket) -> None:
    """Serve, and return after SIGINT or SIGTERM, when the application has ended."""
    host, port = listener.getsockname()[:2]
    print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        server_header=False,
        timeout_graceful_shutdown=IDLE_SECONDS,
    )
    _Server(config).run(sockets=[listener])
