"""An OTLP/HTTP receiver: what services really export, as they would to any collector."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from observability.waterfall import Span
from tally.local.processes import LOOPBACK, free_port

_PATIENCE_S = 30.0


class Receiver:
    """`spans` has all that came; `raw` is every byte of them."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://{LOOPBACK}:{port}"
        self.spans: list[Span] = []
        self.raw = b""
        self.content_types: set[str] = set()

    async def traces(self, request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.raw += body
        self.content_types.add(request.headers["content-type"])
        self.spans += _spans(ExportTraceServiceRequest.FromString(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        return Response(answer, media_type="application/x-protobuf")

    def until(self, holds: Callable[[list[Span]], bool], what: str) -> list[Span]:
        """The spans, when they are what is waited for."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while not holds(self.spans):
            came = sorted({span.name for span in self.spans})
            assert time.monotonic() < give_up_s, f"not within {_PATIENCE_S:g} s: {what}; there are {came}"
            time.sleep(0.05)
        return list(self.spans)


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a port of its own, in a thread of its own."""
    port = free_port()
    receiver = Receiver(port)
    app = Starlette(routes=[Route("/v1/traces", receiver.traces, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host=LOOPBACK, port=port, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, name="OTLP receiver", daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield receiver
    finally:
        server.should_exit = True
        thread.join(5)


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    service=str(service),
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    links=[link.trace_id.hex() for link in span.links],
                    begun_us=span.start_time_unix_nano // 1000,
                    ended_us=span.end_time_unix_nano // 1000,
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    attributes=_attributes(span.attributes),
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
