"""Fetching from hosts on a list without reaching what only this machine can (server-side request forgery).

A name is resolved once, every address it has must be a public one, and the connection goes to an address that was
checked: a second look-up could give another. No redirects, no credentials, no other ports' services by accident.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from urllib.parse import SplitResult, urlsplit

from luvc_export.serve.http.api_errors import bad_request, picture_too_large

#: IPv6 networks whose addresses hold an IPv4 address, and the first of its bits (RFC 6052, 3056, 4380).
_EMBEDDED = ((ipaddress.IPv6Network("64:ff9b::/96"), 96), (ipaddress.IPv6Network("2002::/16"), 16))

#: Networks for documentation, protocols and relays that Python 3.10 takes for public ones (RFC 9637, 6890, 7526).
_NOT_PUBLIC = tuple(ipaddress.ip_network(one) for one in ("3fff::/20", "192.0.0.0/24", "192.88.99.0/24"))

#: Network addresses of a host and port, as text.
Resolver = Callable[[str, int], "list[str]"]


def resolve(host: str, port: int) -> list[str]:
    """Ask the system."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in addresses]


def is_public(address: str) -> bool:
    """Whether anybody may reach ``address``: not private, loopback, link-local, shared, multicast or reserved."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inside = parsed.ipv4_mapped
        for network, start in _EMBEDDED:
            if parsed in network:
                inside = ipaddress.IPv4Address((int(parsed) >> (128 - start - 32)) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
        if parsed.teredo or parsed.is_site_local:
            return False
    if any(parsed.version == network.version and parsed in network for network in _NOT_PUBLIC):
        return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified)


@contextlib.contextmanager
def _ended_at(deadline: float, channel: socket.socket) -> Iterator[None]:
    """Cut ``channel`` when the time is over: its own limit begins anew with every byte."""

    def cut() -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(channel, socket.SHUT_RDWR)  # TLS's own would forget its state under a reader

    timer = threading.Timer(max(0.0, deadline - monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@dataclass(frozen=True)
class Fetcher:
    """Fetches whole bodies.

    Args:
        resolver: Names to addresses.
        allowed: Whether an address may be connected to.
        seconds: For everything together, from the name's look-up to the last byte.
        most: Bytes.
    """

    resolver: Resolver = resolve
    allowed: Callable[[str], bool] = is_public
    seconds: float = 10.0
    most: int = 20 * 2**20

    def get(self, url: str, hosts: frozenset[str], param: str) -> bytes:
        """What ``url`` gives.

        Raises:
            ApiError: 400: the host is not on the list, an address is not public, a redirect, any other status than 200,
                too large, or too slow.
        """
        parts = self._parts(url, hosts, param)
        host, deadline = str(parts.hostname), monotonic() + self.seconds
        port = parts.port or (443 if parts.scheme == "https" else 80)
        refused = bad_request("the picture cannot be fetched", param=param, code="invalid_image_url")
        try:
            addresses = self._resolved(host, port, deadline)
        except (OSError, UnicodeError) as error:
            raise refused from error
        if not addresses or not all(self.allowed(address) for address in addresses):
            what = "the host of this address is not a public one"
            raise bad_request(what, param=param, code="invalid_image_url")
        try:
            with contextlib.ExitStack() as stack:
                opened = self._connect(addresses[0], port, parts, deadline)
                connection = stack.enter_context(contextlib.closing(opened))
                channel = connection.sock  # which the connection forgets where the answer ends with it
                stack.enter_context(_ended_at(deadline, channel))
                target = parts.path or "/"
                target += f"?{parts.query}" if parts.query else ""
                headers = {"Host": parts.netloc, "User-Agent": "luvc-export", "Accept": "image/*"}
                connection.request("GET", target, headers={**headers, "Connection": "close"})
                answer = stack.enter_context(contextlib.closing(connection.getresponse()))
                if answer.status != 200:
                    reason = "a redirect, which is not followed" if 300 <= answer.status < 400 else str(answer.status)
                    raise bad_request(f"fetching the picture gave {reason}", param=param, code="invalid_image_url")
                return self._body(answer, channel, deadline, param)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise refused from error

    def _parts(self, url: str, hosts: frozenset[str], param: str) -> SplitResult:
        refused = bad_request(
            "this host is not on the list of --allow-media-host", param=param, code="invalid_image_url"
        )
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise refused from error
        strange = not url.isascii() or not url.isprintable() or any(letter in url for letter in " \\")
        if strange or parts.username is not None or parts.password is not None:
            raise refused
        if (parts.hostname or "").lower() not in hosts:
            raise refused
        return parts

    def _resolved(self, host: str, port: int, deadline: float) -> list[str]:
        """What the resolver says, which knows no deadline of ours: it is not waited for longer.

        Raises:
            OSError: It fails, or is too slow.
        """
        replies: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                replies.put(self.resolver(host, port))
            except Exception as error:
                replies.put(error)

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        try:
            addresses = replies.get(timeout=max(0.0, deadline - monotonic()))
        except queue.Empty as error:
            raise TimeoutError("the name is not resolved in time") from error
        if isinstance(addresses, Exception):
            raise addresses
        return addresses

    def _connect(self, address: str, port: int, parts: SplitResult, deadline: float) -> http.client.HTTPConnection:
        left = max(0.1, deadline - monotonic())
        connection = http.client.HTTPConnection(str(parts.hostname), port, timeout=left)
        plain = socket.create_connection((address, port), timeout=left)
        if parts.scheme == "https":
            try:
                context = ssl.create_default_context()
                secured = context.wrap_socket(plain, server_hostname=parts.hostname, do_handshake_on_connect=False)
                connection.sock = secured
                with _ended_at(deadline, secured):
                    secured.do_handshake()
            except (OSError, ValueError):
                (connection.sock or plain).close()
                raise
        else:
            connection.sock = plain
        return connection

    def _body(self, answer: http.client.HTTPResponse, channel: socket.socket, deadline: float, param: str) -> bytes:
        body = bytearray()
        while True:
            channel.settimeout(max(0.1, deadline - monotonic()))
            chunk = answer.read1(65536)
            if monotonic() >= deadline:
                raise bad_request("fetching the picture took too long", param=param, code="invalid_image_url")
            if not chunk:
                return bytes(body)
            body += chunk
            if len(body) > self.most:
                raise picture_too_large(self.most, param)
