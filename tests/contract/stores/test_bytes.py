"""What a participant makes of bytes: what is no message is refused as such, and what is one never fails a store."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from tally.chassis.clock import SystemClock
from tally.halves.participant import BadMessage, Participant
from tally.halves.store import Restoring
from tally.protocol import messages as wire
from tests.support.stores import Kit

pytestmark = pytest.mark.asyncio(loop_scope="session")

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
LAST_MS = 2**48 - 1
NIL, MAX = str(UUID(int=0)), str(UUID(int=2**128 - 1))

NO_MESSAGES = [
    ("record", b""),
    ("record", b"null"),
    ("record", b"[]"),
    ("record", b"{}"),
    ("record", b'{"items":null}'),
    ("record", b'{"items":[["x","y","z"]]}'),
    ("record", b'{"items":[["%s"]]}' % ID.encode()),
    ("record", json.dumps({"items": [[ID, ID, ID, "\0", None]]}).encode()),
    ("record", json.dumps({"items": [[ID, ID, ID, None, "ada\0"]]}).encode()),
    ("record", json.dumps({"items": [[ID, ID, ID, None, "ada\ud800"]]}).encode()),
    ("record", b'{"items":[["%s","%s","%s",null,"\xff"]]}' % (ID.encode(), ID.encode(), ID.encode())),
    ("record", json.dumps({"items": [[ID, ID, ID]] * (wire.BATCH_MAX + 1)}).encode()),
    ("resolve", b'{"items":[1]}'),
    ("kill", json.dumps({"items": [[ID, None]]}).encode()),
    ("close", b'{"time":-1,"since":null,"limit":1}'),
    ("close", b'{"time":%d,"since":null,"limit":1}' % 2**48),
    ("close", b'{"time":1,"since":%d,"limit":1}' % 2**63),
    ("close", b'{"time":1,"since":null,"limit":%d}' % 2**31),
    ("close", b'{"time":1,"since":null,"limit":-1}'),
    ("close", b'{"time":1.5,"since":null,"limit":1}'),
    ("close", b'{"time":1%s,"since":null,"limit":1}' % (b"0" * 400)),
    ("forward", b'{"limit":-1}'),
    ("forward", b'{"limit":%d}' % 2**64),
    ("list", json.dumps({"by": "middle", "items": []}).encode()),
    ("list", json.dumps({"by": "left", "items": [[ID, None, 0]]}).encode()),
    ("list", json.dumps({"by": "left", "items": [[ID, None, 2**40]]}).encode()),
    ("swap", b"{}"),
]

EXTREMES = [
    ("record", {"items": [[NIL, MAX, NIL], [MAX, NIL, MAX, "", ""], [MAX, NIL, MAX, "", "\u0001\U0010ffff"]]}),
    ("resolve", {"items": [NIL, MAX, NIL]}),
    ("kill", {"items": [[NIL, MAX], [MAX, NIL], [MAX, NIL]]}),
    ("cancel", {"items": [NIL, MAX]}),
    ("ack", {"items": [[NIL, MAX]]}),
    ("status", {"items": [NIL, MAX] * (wire.BATCH_MAX // 2)}),
    ("find", {"items": [[NIL, MAX], [MAX, NIL]]}),
    ("list", {"by": "left", "items": [[NIL, MAX, 1000], [MAX, NIL, 1]]}),
    ("list", {"by": "right", "items": [[NIL, MAX, 1000], [MAX, NIL, 1]], "shadow": True}),
    ("forward", {"limit": 2**31 - 1}),
    ("close", {"time": LAST_MS, "since": LAST_MS, "limit": 2**31 - 1}),
    ("close", {"time": 0, "since": LAST_MS, "limit": 2**31 - 1}),
    ("close", {"time": 0, "since": 0, "limit": 0}),
    ("settle", {"since": LAST_MS, "time": LAST_MS, "inc": MAX, "matched": [NIL, MAX]}),
]


def participant(kit: Kit) -> Participant:
    return Participant(kit.relationship, kit.side, kit.store, SystemClock(), lag_ms=2000)


@pytest.mark.parametrize(("message", "body"), NO_MESSAGES, ids=lambda one: str(one)[:60])
async def test_what_is_no_message_is_refused_as_such(kit: Kit, message: str, body: bytes) -> None:
    before = await kit.state()
    with pytest.raises(BadMessage, match=r"."):
        await participant(kit).answer(message, body)
    assert await kit.state() == before


@pytest.mark.parametrize(("message", "fields"), EXTREMES, ids=lambda one: str(one)[:60])
async def test_what_is_one_is_answered_however_extreme_it_is(kit: Kit, message: str, fields: dict[str, object]) -> None:
    here = participant(kit)
    body = json.dumps(fields).encode()
    if message in here.messages:
        assert await here.answer(message, body)
    else:  # the left side settles nothing
        with pytest.raises(BadMessage, match=message):
            await here.answer(message, body)


async def test_a_side_that_is_restoring_says_so_to_all_of_them(kit: Kit) -> None:
    await kit.set_restoring(True)
    for message, fields in EXTREMES:
        if message in ("record", "resolve", "kill", "cancel"):
            with pytest.raises(Restoring):
                await participant(kit).answer(message, json.dumps(fields).encode())
