"""The socket that a server of ours listens on, taken before anything is said about it."""

from __future__ import annotations

import socket

from halftime.base.errors import BadInput

BACKLOG = 2048


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises BadInput where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(
            f"cannot listen on {host} port {port}: {reason}. Choose another --port (0 takes a "
            "free one) or --host."
        ) from error


def address_of(taken: socket.socket) -> str:
    """http://HOST:PORT as a client on this machine writes it."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
