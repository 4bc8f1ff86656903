"""A real trace of a create that one participant refuses: `python -m tests.observability.trace` writes it for docs/.

The picture follows from what is written (`make golden`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from observability.waterfall import Span
from tally.local.ask import ask
from tally.local.stack import LocalStack, free_ports
from tests.observability.receiver import Receiver, receiving
from tests.support.folders import scratch_folder
from tests.support.stacks import CORE

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FILE = Path(__file__).resolve().parents[2] / "docs" / "create-refused.json"
_CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
_NOWHERE = "01a2055d-685b-7fcf-98e9-9180cb1c798e"
_UNTRACED = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}
_WARM = 3


@contextmanager
def refused_create() -> Iterator[tuple[LocalStack, Receiver, list[Span]]]:
    """A stack that exports, and the spans of one create of a known author at an event that does not exist."""
    with receiving() as receiver, scratch_folder() as folder:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "TALLY_ACCESS_LOG": "all",
        }
        with LocalStack(
            folder / ".tally", programs=CORE, ports=free_ports(CORE), env=env, supervise=False, durable=False
        ) as stack:
            made = ask("POST", f"{stack.urls['author']}/author", {"full_name": "Alan Turing"}, headers=_UNTRACED)
            address = f"{stack.urls['gateway']}/event/{_NOWHERE}/attendance/{made.body['id']}"
            for _ in range(_WARM):  # connections and plans, which a picture of an ordinary create should not show
                ask("PUT", address, headers=_UNTRACED)
            answer = ask("PUT", address, headers={"traceparent": _CALLER})
            assert answer.status == 404, answer.says()
            whole = receiver.until(lambda spans: _complete(_of_the_create(spans)), "the trace of the create")
            yield stack, receiver, _of_the_create(whole)


def _of_the_create(spans: list[Span]) -> list[Span]:
    return sorted((span for span in spans if span.trace_id == TRACE), key=lambda span: span.begun_us)


def _complete(spans: list[Span]) -> bool:
    """Every call's other side has been exported, and the request that is above all of them."""
    parents = {span.parent_id for span in spans}
    calls = [span for span in spans if span.name == "call"]
    return any(span.name.startswith("PUT") for span in spans) and all(call.span_id in parents for call in calls)


def main() -> None:
    with refused_create() as (_, _, spans):
        FILE.write_bytes(msgspec.json.format(msgspec.json.encode(spans), indent=1) + b"\n")
    print(f"{len(spans)} spans in {FILE}; now `make golden`")


if __name__ == "__main__":
    main()
