"""Pictures by URL, fetched to be looked at: only from hosts that the operator named."""

from __future__ import annotations

from urllib.parse import urlsplit

import aiohttp

from halftime.verbs.captions.features import MOST_BYTES

SECONDS = 2.0  # for one picture; after that the large model answers


class PictureClient:
    """A client of its own: nothing that a caption request carries goes to a picture's host."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self.hosts = {host.lower() for host in hosts}
        self._session: aiohttp.ClientSession | None = None

    def may_fetch(self, url: str) -> bool:
        """Whether the operator named the host: its name, with the port where the URL has one."""
        try:
            parts = urlsplit(url)
            return parts.scheme in ("http", "https") and parts.netloc.lower() in self.hosts
        except ValueError:
            return False

    async def fetch(self, url: str) -> bytes | None:
        """The picture; None where the host does not give it at once, as it is."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=SECONDS)
            self._session = aiohttp.ClientSession(
                timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
        try:
            # a redirect may lead to a host that nobody named
            async with self._session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                picture = b""
                async for piece in answer.content.iter_any():
                    picture += piece
                    if len(picture) > MOST_BYTES:
                        return None
                return picture
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
