"""The socket that one of our servers listens on, opened before its address is announced."""

from __future__ import annotations

import socket

from halftime.base.errors import BadInput

BACKLOG = 2048


def listening_socket(host: str, port: int, *, stalled_seconds: float = 0.0) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises BadInput where that cannot be.

    After `stalled_seconds` the kernel drops a connection whose reader takes nothing, even where the
    server has closed it already; 0 leaves that to the kernel's defaults. Linux only.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(
            f"cannot listen on {host} port {port}: {reason}. Choose another --port (0 takes a "
            "free one) or --host."
        ) from error
    # connections inherit these; asyncio sets the first by itself on sockets that it made alone
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if stalled_seconds and hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = int(1000 * stalled_seconds)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return listener


def address_of(listener: socket.socket) -> str:
    """http://HOST:PORT as a client on this machine writes it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
