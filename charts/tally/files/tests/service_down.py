"""What callers see while the author service cannot be reached, and that it ends with the cause.

Nothing is stopped: every gateway pod's breakers for the author service are forced open by an operator's token, which is
what the gateway does by itself when the service is away. They are freed again whatever happens.
"""

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PATIENCE_S = 20.0


def address(name: str) -> str:
    return f"http://{os.environ[f'{name.upper()}_HOST']}:{os.environ[f'{name.upper()}_PORT']}"


def ask(method: str, url: str, body: Any = None, token: str = "") -> tuple[int, Any, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=10) as answer:
            text, status, found = answer.read(), answer.status, answer.headers
    except urllib.error.HTTPError as error:
        text, status, found = error.read(), error.code, error.headers
    return status, found, json.loads(text) if text else None


def force(mode: str) -> None:
    """Every gateway pod's breakers for the author service."""
    token = Path("/var/run/secrets/tally/gateway").read_text()
    port = int(os.environ["GATEWAY_PORT"]) + 1000
    for address in {info[4][0] for info in socket.getaddrinfo(f"{os.environ['GATEWAY_HOST']}-admin", port)}:
        for kind in ("read", "write"):
            url = f"http://{address}:{port}/admin/breakers/author/{kind}"
            status, _, answer = ask("PUT", url, {"mode": mode}, token)
            check(status == 200, f"PUT {url} answered {status}: {answer}")


def check(holds: bool, sentence: str) -> None:
    if not holds:
        sys.exit(sentence)
    print("ok:", sentence)


status, _, author = ask("POST", f"{address('author')}/author", {"full_name": "Grace Hopper"})
check(status == 201, f"an author is created: {status} {author}")
status, _, conference = ask("POST", f"{address('conference')}/conference", {"acronym": "DOWN"})
check(status == 201, f"a conference is created: {status} {conference}")
status, _, event = ask("POST", f"{address('conference')}/event", {"conference_id": conference["id"], "seq": 1})
check(status == 201, f"an event is created: {status} {event}")
pair = f"{address('gateway')}/event/{event['id']}/attendance/{author['id']}"
listed = f"{address('gateway')}/event/{event['id']}/attendance"

try:
    force("forced_open")
    status, headers, answer = ask("POST", pair)
    check(status == 503 and answer["code"] == "service-unavailable", f"a create is refused: {status} {answer}")
    check("Retry-After" in headers, f"it says when to come again: Retry-After {headers.get('Retry-After')}")
    status, _, answer = ask("GET", listed)
    check(status == 200 and answer["complete"] is False, f"a read shows what the other side knows: {status} {answer}")
finally:
    force("auto")

give_up = time.monotonic() + PATIENCE_S
while (status := ask("POST", pair)[0]) != 201 and time.monotonic() < give_up:
    time.sleep(0.5)
check(status == 201, f"afterwards the create is done, for the first time: {status}")
status, _, answer = ask("GET", listed)
found = [one["id"] for one in answer["attendees"]]
check(found == [author["id"]], f"and is read: {found}")
