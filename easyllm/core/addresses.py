"""Addresses of servers: is it this machine, is it the base of an OpenAI API, and no proxy before loopback."""

import urllib.request
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    return host in ("localhost", "::1") or host.startswith("127.")


def direct_opener() -> urllib.request.OpenerDirector:
    """Opens URLs without any proxy: a proxy set for the internet must not stand before loopback."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def is_base_address(url: str) -> bool:
    """Whether ``url`` is http(s)://host[:port]/[path/]v1 and nothing more; a password has no place in it."""
    try:
        parts = urlsplit(url)
        web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a bracket that does not close
        return False
    more = parts.query or parts.fragment or "@" in parts.netloc
    return web and not more and parts.path.rstrip("/").endswith("/v1")


def without_password(url: str) -> str:
    """The address as it may be shown."""
    before, at, after = url.rpartition("@")
    return f"{before.partition('://')[0]}://***@{after}" if at else url
