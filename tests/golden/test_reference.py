"""The reference pages follow from the declarations: settings, metrics and spans, problems, the APIs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from services.author.__main__ import AuthorSettings
from services.author.__main__ import build as build_author
from services.conference.__main__ import ConferenceSettings
from services.conference.__main__ import build as build_conference
from services.directory.directory import DirectorySettings, directory
from services.gateway.__main__ import Settings as GatewaySettings
from services.gateway.__main__ import build as build_gateway
from services.notifier.notifier import NotifierSettings
from services.notifier.notifier import notifier as build_notifier
from tally.chassis import openapi
from tally.chassis.problems import CODES
from tally.chassis.settings import SettingDoc, describe
from tally.chassis.signals import Signals
from tally.chassis.spans import EVENTS, SPANS

Golden = Callable[[str, str], None]
SETTINGS = {
    "author": AuthorSettings,
    "conference": ConferenceSettings,
    "gateway": GatewaySettings,
    "directory": DirectorySettings,
    "notifier": NotifierSettings,
}
BUILD = {
    "author": build_author,
    "conference": build_conference,
    "gateway": build_gateway,
    "directory": directory,
    "notifier": build_notifier,
}


def _settings_rows(docs: list[SettingDoc]) -> Iterator[str]:
    for doc in docs:
        default = "*must be set*" if doc.default is None else f"`{doc.default}`" if doc.default else "–"
        yield f"| `{doc.variable}` | {default} | {doc.description} |"


def test_every_setting_is_documented(golden: Golden) -> None:
    tables = [set(_settings_rows(describe(kind))) for kind in SETTINGS.values()]
    common = set.intersection(*tables)
    lines = ["# Settings", "", "Environment variables, read once at start; a bad one is named.", ""]
    head = ["| variable | default | |", "|---|---|---|"]
    lines += ["## All services", "", *head, *sorted(common)]
    for name, table in zip(SETTINGS, tables, strict=True):
        lines += ["", f"## {name}", "", *head, *sorted(table - common)]
    golden("docs/settings.md", "\n".join(lines) + "\n")


def test_every_metric_and_span_is_documented(golden: Golden) -> None:
    lines = ["# Metrics and spans", "", "## Metrics", "", "| metric | labels | |", "|---|---|---|"]
    lines += [f"| `{m.name}` | {', '.join(m.labels) or '–'} | {m.sentence} |" for m in Signals.catalogue()]
    lines += ["", "## Spans", "", "| span | kind | |", "|---|---|---|"]
    lines += [f"| `{name}` | {span.side} | {span.sentence} |" for name, span in SPANS.items()]
    said = "What may happen to a span that is open; the labels of the metric that counts it are among its attributes."
    lines += ["", said, "", "| event | |", "|---|---|"]
    lines += [f"| `{name}` | {sentence} |" for name, sentence in EVENTS.items()]
    golden("docs/metrics.md", "\n".join(lines) + "\n")


def test_every_problem_is_documented(golden: Golden) -> None:
    lines = [
        "# Problems",
        "",
        "Every error is `application/problem+json` (RFC 9457) with a stable `code`; `retryable` says that the same",
        "request may succeed later. A 503 means that nothing was recorded, now or later.",
        "",
        "| code | status | retryable | |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{code}` | {c.status} | {'yes' if c.retryable else 'no'} | {c.title} |" for code, c in CODES.items()]
    golden("docs/problems.md", "\n".join(lines) + "\n")


@pytest.mark.parametrize("name", list(BUILD))
def test_the_api_of_a_service_changes_only_on_purpose(name: str, golden: Golden) -> None:
    values = {"token_check": "off", "port": 1, **({} if name == "gateway" else {"database_url": "postgresql:///x"})}
    service = BUILD[name](SETTINGS[name](**values), Signals(name, environ={}))  # type: ignore[operator, arg-type]
    document = openapi.document(f"Tally: {name}", "0", service.routes)
    golden(f"docs/openapi/{name}.json", json.dumps(document, indent=1, sort_keys=True, default=str) + "\n")
