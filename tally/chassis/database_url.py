"""The setting `database_url`: the address of a PostgreSQL, as its own programs and asyncpg read it.

    postgresql://user:password@host:5432/database          one server
    postgresql://user@one:5432,two:5433/database           several
    postgresql://user@/database?host=/run/postgresql       a UNIX socket, by its folder

It is checked when the settings are read: asyncpg would raise, at its first use, what names no variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Meta

from tally.chassis.settings import SECRET

_DEFAULT_PORT: Final = "5432"
_PORT_MAX: Final = 65535
_HOST: Final = re.compile(r"(?P<host>/.*|\[[^\]]+\]|[^:@\[\]]+)(?::(?P<port>.*))?")
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def addresses(url: str) -> list[str]:
    """Where it points: a `host:port` or a socket's folder each; empty if that is left to the environment.

    ValueError says in half a sentence what is wrong, without any of the address: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError:
        raise ValueError("is no address: what follows its ? must be name=value, joined by &") from None
    if (mode := query.get("sslmode", [""])[-1]) and mode not in _SSL_MODES:
        raise ValueError(f"has an sslmode that is none of {', '.join(_SSL_MODES)}")
    given = unquote(parts.netloc.partition("@")[2] if "@" in parts.netloc else parts.netloc)
    if given:
        return list(_hosts(given, [_DEFAULT_PORT]))
    ports = query.get("port", [_DEFAULT_PORT])[-1].split(",")
    return list(_hosts(there, ports)) if (there := query.get("host", [""])[-1]) else []


def _hosts(given: str, ports: list[str]) -> Iterator[str]:
    hosts = given.split(",")
    if len(ports) not in (1, len(hosts)):
        raise ValueError(f"has {len(hosts)} hosts and {len(ports)} ports")
    for host, port in zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True):
        match = _HOST.fullmatch(host)
        if match is None:
            raise ValueError("has a host that is none (a special character of the password must be percent-encoded)")
        yield match["host"] if host.startswith("/") else f"{match['host']}:{_port(match['port'] or port)}"


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= _PORT_MAX:
        raise ValueError(
            f"has a port that is no number from 1 to {_PORT_MAX} (a special character of the password must be "
            "percent-encoded)"
        )
    return int(text)


DatabaseUrl = Annotated[
    str,
    Meta(pattern="^postgres(ql)?://", description="The service's own PostgreSQL.", extra=SECRET | {"check": addresses}),
]
