"""What callers see while the author service cannot be reached, and that it ends with the cause. Everybody sees it.

Nothing is stopped: every gateway pod's breakers for the author service are forced open by an operator's token, which is
what the gateway does by itself when the service is away. They are freed again when the test ends, if it fails or is
told to stop, too. Had it been killed, an operator would do it, by a PUT of {"mode": "auto"} at each gateway pod's
/admin/breakers/author/read and /admin/breakers/author/write. (A pod that is started anew holds none.)
"""

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from tidy import PATIENCE_S, Made, place

from tally.local.ask import Answer, ask

TOKEN = Path(os.environ["TOKEN_FOLDER"]) / "gateway"


def asked(method: str, service: str, path: str, body: Any = None) -> Answer:
    return ask(method, f"{place(service).url}{path}", body)


def force(mode: str) -> None:
    """Every gateway pod's breakers for the author service; one that cannot be reached keeps no other from its turn."""
    here, wrong = place("gateway"), []
    for pod in sorted({info[4][0] for info in socket.getaddrinfo(os.environ["GATEWAY_ADMIN_HOST"], here.admin_port)}):
        host = f"[{pod}]" if ":" in str(pod) else pod
        for kind in ("read", "write"):
            url = f"{here.scheme}://{host}:{here.admin_port}/admin/breakers/author/{kind}"
            try:
                answer = ask("PUT", url, {"mode": mode}, headers={"Authorization": f"Bearer {TOKEN.read_text()}"})
                if answer.status != 200:
                    wrong.append(f"PUT {url} answered {answer.says()}")
            except OSError as error:
                wrong.append(f"PUT {url}: {error}")
    if wrong:
        sys.exit("; ".join(wrong))


def check(holds: bool, sentence: str) -> None:
    if not holds:
        sys.exit(sentence)
    print("ok:", sentence, flush=True)


def create(made: Made, service: str, body: Any, path: str) -> str:
    answer = asked("POST", service, path, body)
    check(answer.status == 201, f"POST {path}: {answer.status} {answer.body}")
    made.add(service, f"{path}/{answer.body['id']}")
    return str(answer.body["id"])


with Made() as made:
    author = create(made, "author", {"full_name": "Grace Hopper"}, "/author")
    conference = create(made, "conference", {"acronym": "DOWN"}, "/conference")
    event = create(made, "conference", {"conference_id": conference, "seq": 1}, "/event")
    listed = f"/event/{event}/attendance"
    pair = f"{listed}/{author}"
    made.add("gateway", pair)

    try:
        force("forced_open")
        refused = asked("POST", "gateway", pair)
        unavailable = refused.status == 503 and refused.body["code"] == "service-unavailable"
        check(unavailable, f"a create is refused: {refused.status} {refused.body}")
        again = refused.headers.get("retry-after")
        check(again is not None, f"it says when to come again: Retry-After {again}")
        read = asked("GET", "gateway", listed)
        degraded = read.status == 200 and read.body["complete"] is False
        check(degraded, f"a read shows what the other side knows: {read.status} {read.body}")
    finally:
        force("auto")

    give_up_s = time.monotonic() + PATIENCE_S
    while (status := asked("POST", "gateway", pair).status) != 201 and time.monotonic() < give_up_s:
        time.sleep(0.5)
    check(status == 201, f"afterwards the create is done, for the first time: {status}")
    read = asked("GET", "gateway", listed)
    found = [one["id"] for one in read.body["attendees"]]
    check(found == [author], f"and is read: {found}")
