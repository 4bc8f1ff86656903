"""The rules as they are in the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "observability" / "alerts"
FILES = sorted(FOLDER.glob("*.yaml"))


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    expr: str
    is_alert: bool
    labels: dict[str, str]
    annotations: dict[str, str]


def _read(raw: dict[str, Any]) -> Rule:
    name = raw.get("alert") or raw["record"]
    return Rule(name, raw["expr"], "alert" in raw, raw.get("labels", {}), raw.get("annotations", {}))


RULES = [_read(raw) for file in FILES for group in yaml.safe_load(file.read_text())["groups"] for raw in group["rules"]]
ALERTS = {rule.name for rule in RULES if rule.is_alert}
RECORDED = {rule.name for rule in RULES if not rule.is_alert}
