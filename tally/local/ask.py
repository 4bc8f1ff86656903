"""One plain HTTP request, as a person with curl would make it: for readiness, `tally demo` and `tally operation`.

Not for services: they have the chassis's client.
"""

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from tally.local.services import Place, Program


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is what the JSON says, or the text if it is none; `headers` have lower-case names."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: Any

    def says(self) -> str:
        """A problem in half a sentence."""
        problem = self.body if isinstance(self.body, dict) else {}
        return f"{self.status} {problem.get('code', self.reason)}: {problem.get('detail', self.body)}"


def ask(
    method: str,
    url: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
    verified: bool = False,
) -> Answer:
    """The answer, whatever its status; OSError or HTTPException when there is none.

    Unless it is `verified`, https is taken without looking at the certificate, as between our own processes here.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    if parts.scheme == "https":
        # Our own service over the loopback address, where its certificate's name cannot match.
        tls = ssl.create_default_context() if verified else ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=tls)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, parts._replace(scheme="", netloc="").geturl(), content, dict(headers or {}))
        answer = connection.getresponse()
        given = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, answer.reason, given, _decoded(answer.read().decode(errors="replace")))
    finally:
        connection.close()


def not_ready(program: Program, here: Place) -> str | None:
    """None when a program says that it is ready, else why not."""
    try:
        answer = ask("GET", f"{here.admin_url}{program.ready}", timeout_s=2)
    except OSError as error:
        return f"it does not answer on its admin port {here.admin_port}: {error.strerror or error}"
    except http.client.HTTPException as error:
        return f"its admin port {here.admin_port} does not speak HTTP: {error!r}"
    return None if answer.status == HTTPStatus.OK else answer.says()[:300]


def _decoded(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text.strip()
