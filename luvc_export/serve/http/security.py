"""Who may call: key, ``Host`` and ``Origin``.

A page of a stranger can have the browser call a server on this machine, and by a name that resolves to it (DNS
rebinding) even read the answers. A ``Host`` that is an address cannot be rebound; names must be known. An ``Origin``
other than ours is refused unless it was asked for, and bodies must be ``application/json``, which makes browsers ask
first.

The page at ``/`` is one file, which may run its own script and call this server, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from luvc_export.serve.http.api_errors import ApiError
from luvc_export.serve.options import ServeOptions

#: Open without a key: whether the server lives, and the page, which holds nothing.
OPEN = frozenset(("/health", "/ready", "/ping", "/"))
#: A ``Host`` header (RFC 3986, 3.2.2): an IPv6 address in brackets without a zone, or a name; and a port.
_HOST = re.compile(
    r"(?:\[(?P<bracketed>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/@?#\\\s]+))(?::(?P<port>[0-9]{0,5}))?", re.ASCII
)
_LAST_PORT = 65_535


def check_caller(path: str, headers: Mapping[str, str], options: ServeOptions) -> None:
    """Let a request in, or not.

    Raises:
        ApiError: 403 for a foreign ``Host`` or ``Origin``, 401 for a missing or wrong key.
    """
    if not known_host(headers.get("host", ""), options.allow_hosts):
        raise ApiError(403, "this server does not go by that name; see --allow-host", code="unknown_host")
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    own = f"http://{host}", f"https://{host}"
    if origin is not None and origin not in options.allow_origins and origin.lower() not in own:
        raise ApiError(403, "pages of that origin may not call this server; see --allow-origin", code="unknown_origin")
    if options.api_key is None or path in OPEN:
        return
    key = key_of(headers)
    if not hmac.compare_digest(key.encode("utf-8", "replace"), options.api_key.encode()):
        what = "there is no API key" if not key else "the API key is wrong"
        headers = {"www-authenticate": "Bearer"}
        raise ApiError(401, f"{what}: send Authorization: Bearer KEY", code="invalid_api_key", headers=dict(headers))


def key_of(headers: Mapping[str, str]) -> str:
    """The key a client sends, wanted or not; nothing where it sends none."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


def known_host(host: str, names: frozenset[str]) -> bool:
    """Whether a ``Host`` header is an address, ``localhost`` or one of ``names``."""
    match = _HOST.fullmatch(host)
    if match is None or int(match["port"] or 0) > _LAST_PORT:
        return False
    name = (match["bracketed"] or match["name"]).lower()
    if name in names or name == "localhost":
        return True
    try:
        (ipaddress.IPv6Address if match["bracketed"] else ipaddress.IPv4Address)(name)
    except ValueError:
        return False
    return True


_FILE = Path(__file__).with_name("page.html")
_BLOCKS = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


@lru_cache(maxsize=1)
def page() -> tuple[bytes, str]:
    """The file and its content security policy: hashes of its script and style, no other source of anything."""
    text = _FILE.read_text(encoding="utf-8")
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, body in _BLOCKS.findall(text):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    rules = [
        "default-src 'none'",
        f"script-src {' '.join(hashes['script'])}",
        f"style-src {' '.join(hashes['style'])}",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return text.encode(), "; ".join(rules)
