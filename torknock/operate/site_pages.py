"""The exchanges of the operator's own site: its pages are loaded as a browser loads them, and the sizes are kept.

A browser's pauses are the reader's processor's and not the site's, so those before requests are taken from the
exchanges that torknock ships. This blocks; it runs in a command, without a reactor.
"""

from __future__ import annotations

import gzip
import http.client
import io
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, cast
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from torknock.channel.shapes import shipped
from torknock.errors import TorknockError
from torknock.protocol.exchanges import Exchange, Site, exchange
from torknock.protocol.plan import Chance

CONNECTIONS = 6
"""Connections that a browser makes to a site over HTTP/1.1."""

_PARTS_AT_MOST = 60
_ANSWER_WITHIN = 10.0
_SIZE_AT_MOST = 16 << 20

_ALL = """Host: {host}
Connection: keep-alive
sec-ch-ua-platform: "Windows"
User-Agent: {browser}
sec-ch-ua: "Chromium";v="150", "Google Chrome";v="150", "Not-A.Brand";v="24"
sec-ch-ua-mobile: ?0
"""
_OF_PAGE = """Upgrade-Insecure-Requests: 1
Accept: {accept}
Sec-Fetch-Site: none
Sec-Fetch-Mode: navigate
Sec-Fetch-User: ?1
Sec-Fetch-Dest: document
"""
_OF_PART = """Accept: {accept}
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: no-cors
Sec-Fetch-Dest: {kind}
Referer: {page}
"""
_END = """Accept-Encoding: {encoding}
Accept-Language: en-US,en;q=0.9

"""
_PAGE, _PART = _ALL + _OF_PAGE + _END, _ALL + _OF_PART + _END
_UNQUOTED = "%/:=&?~+!$,;'@()*[]"
"""What is sent of an address as it is."""

_ENCODINGS = "gzip, deflate, br, zstd"
_BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
)
_ACCEPT = {
    "document": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7",
    "style": "text/css,*/*;q=0.1",
    "script": "*/*",
    "image": "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
}


class SiteNotLearned(TorknockError):
    """A page of the site cannot be loaded."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back: the octets on the wire, and the seconds to the first of them at the site."""

    body: bytes
    encoding: str
    size: int
    wait: float


class _Connection(io.RawIOBase):
    """One connection to the site, and what `http.client` reads from; what is read is counted."""

    def __init__(self, url: SplitResult, context: ssl.SSLContext) -> None:
        host = url.hostname or ""
        began = time.monotonic()
        plain = socket.create_connection((host, url.port or 443), _ANSWER_WITHIN)
        self._round_trip = time.monotonic() - began
        self._tls = context.wrap_socket(plain, server_hostname=host)
        self._read = 0
        self._first = 0.0

    def ask(self, text: str) -> _Answer:
        """The answer to the request *text*."""
        asked = time.monotonic()
        self._read, self._first = 0, 0.0
        self._tls.sendall(text.encode("ascii"))
        response = http.client.HTTPResponse(cast(socket.socket, self))  # it calls nothing but makefile
        response.begin()
        if response.status != http.HTTPStatus.OK:
            raise SiteNotLearned(f"the site answers {response.status} {response.reason}", "name pages that it has")
        body = response.read(_SIZE_AT_MOST)
        if response.read(1):
            raise SiteNotLearned(f"an answer of the site has more than {_SIZE_AT_MOST} octets", "name other pages")
        wait = max(0.0, self._first - asked - self._round_trip)
        return _Answer(body, response.getheader("Content-Encoding", ""), self._read, wait)

    def makefile(self, mode: str) -> io.BufferedReader:
        """A reader for one answer."""
        return io.BufferedReader(_Borrowed(self))

    def take(self, room: Any) -> int:
        """Read octets into *room*; how many there were."""
        read = self._tls.recv_into(room)
        self._first = self._first or time.monotonic()
        self._read += read
        return read

    def close(self) -> None:
        """End the connection."""
        self._tls.close()
        super().close()


class _Borrowed(io.RawIOBase):
    """Reads from *connection*, and leaves it open when it is closed itself."""

    def __init__(self, connection: _Connection) -> None:
        super().__init__()
        self._connection = connection

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, room: Any) -> int:
        """See `io.RawIOBase`."""
        return self._connection.take(room)


class _Parts(HTMLParser):
    """The addresses of what a page is made of, with their kinds, as they are found on it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that may name a style sheet, a script or an image."""
        given = {name: value or "" for name, value in attrs}
        if tag == "link" and "stylesheet" in given.get("rel", "").lower().split():
            self.found.append((given.get("href", ""), "style"))
        elif tag == "link" and "icon" in given.get("rel", "").lower().split():
            self.found.append((given.get("href", ""), "image"))
        elif tag in ("script", "img") and given.get("src"):
            self.found.append((given["src"], "script" if tag == "script" else "image"))


def learn(urls: Sequence[str], chance: Chance, trusted: str | None = None) -> Site:
    """The exchanges of the pages at *urls*. Raises `SiteNotLearned`.

    *trusted* is a file with the certificates that the site's must chain up to; the host's trust store unless named.
    """
    context = ssl.create_default_context(cafile=trusted)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    thinks = [one.think for page in shipped().pages for one in page[1:]]
    pages: list[tuple[Exchange, ...]] = []
    for url in urls:
        pages += _learn_page(url, context, lambda: thinks[chance.randint(0, len(thinks) - 1)])
    taken = f"torknock site learn, {len(urls)} pages; the pauses before requests are those that torknock ships"
    return Site(taken, tuple(pages))


def _learn_page(url: str, context: ssl.SSLContext, think: Callable[[], float]) -> list[tuple[Exchange, ...]]:
    """The exchanges of each connection that a browser would load the page at *url* with."""
    where = urlsplit(url)
    if where.scheme != "https" or not where.hostname:
        raise SiteNotLearned(f"{url} is no address of a page of your site", "write https://NAME/PATH")
    try:
        with closing(_Connection(where, context)) as first:
            request = _request(where, _PAGE, "document", encoding=_ENCODINGS)
            answer = first.ask(request)
            seen = [[exchange(0.0, len(request), [answer.size], answer.wait)]]
            parts = _parts_of(url, answer, where, context)
            with ExitStack() as stack:
                ways = [first]
                for number, (address, kind) in enumerate(parts):
                    if number < CONNECTIONS - 1 and number:
                        ways.append(stack.enter_context(closing(_Connection(where, context))))
                        seen.append([])
                    way = number % len(ways)
                    request = _request(urlsplit(address), _PART, kind, page=url, encoding=_ENCODINGS)
                    answer = ways[way].ask(request)
                    seen[way].append(exchange(think(), len(request), [answer.size], answer.wait))
    except ssl.SSLError as error:
        raise SiteNotLearned(f"{where.hostname}: TLS failed: {error.reason}", "let it speak TLS 1.3") from None
    except (OSError, http.client.HTTPException) as error:
        raise SiteNotLearned(f"{url} cannot be loaded: {error}", "look at its web server") from None
    return [tuple(page[:64]) for page in seen if page]


def _parts_of(url: str, page: _Answer, where: SplitResult, context: ssl.SSLContext) -> list[tuple[str, str]]:
    """What the *page* is made of that the same site has, once each, with its kind."""
    if page.encoding not in ("", "gzip"):
        with closing(_Connection(where, context)) as again:
            page = again.ask(_request(where, _PAGE, "document", encoding="gzip"))
    parser = _Parts()
    try:
        octets = gzip.decompress(page.body) if page.encoding == "gzip" else page.body
    except (OSError, EOFError, zlib.error):
        raise SiteNotLearned(f"{url} is compressed and cannot be read", "look at its web server") from None
    parser.feed(octets.decode("utf-8", "replace"))
    parts: dict[str, str] = {}
    for address, kind in parser.found:
        found = urlsplit(urljoin(url, address))
        if (found.scheme, found.netloc) == (where.scheme, where.netloc):
            parts.setdefault(found._replace(fragment="").geturl(), kind)
    return list(parts.items())[:_PARTS_AT_MOST]


def _request(url: SplitResult, text: str, kind: str, **more: str) -> str:
    target = quote((url.path or "/") + (f"?{url.query}" if url.query else ""), _UNQUOTED)
    filled = text.format(host=url.netloc, browser=_BROWSER, accept=_ACCEPT[kind], kind=kind, **more)
    return f"GET {target} HTTP/1.1\n{filled}".replace("\n", "\r\n")
