"""What a PromQL expression names: its series, their labels, and what is grouped by.

Grafana's variables are given values first. An expression that does not parse raises a ValueError that says where.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import promql_parser as promql

_VARIABLES: Final = {
    "$__rate_interval": "1m",
    "$__interval": "15s",
    "$__range": "1h",
    "$namespace": ".+",
    "$job": ".+",
    "$instance": ".+",
}


def filled(expr: str, **values: str) -> str:
    """`expr` as Grafana sends it, with everything selected."""
    for name, value in {**_VARIABLES, **{f"${name}": value for name, value in values.items()}}.items():
        expr = expr.replace(name, value)
    return expr


@dataclass(frozen=True, slots=True)
class Matcher:
    label: str
    op: str
    value: str

    def holds(self, labels: Mapping[str, str]) -> bool:
        """As Prometheus: a label that is not there is empty, and an expression must match all of it."""
        given = labels.get(self.label, "")
        match self.op:
            case "=":
                return given == self.value
            case "!=":
                return given != self.value
            case "=~":
                return re.fullmatch(self.value, given) is not None
            case _:
                return re.fullmatch(self.value, given) is None


@dataclass(frozen=True, slots=True)
class Selector:
    """A name and its matchers; `within` are the labels that its value is grouped, joined or kept by further out."""

    name: str
    matchers: tuple[Matcher, ...]
    within: frozenset[str]

    def chooses(self, name: str, labels: Mapping[str, str]) -> bool:
        return name == self.name and all(matcher.holds(labels) for matcher in self.matchers)

    @property
    def labels(self) -> frozenset[str]:
        """Every label that the expression needs of this selector's series."""
        return self.within | {matcher.label for matcher in self.matchers}


def selectors(expr: str) -> list[Selector]:
    return list(_selectors(promql.parse(filled(expr)), frozenset()))


def joined_with_ours(expr: str) -> bool:
    """Whether each series whose name others have, too, is beside a `tally_build_info` that says whose it is."""
    named = [one.name for one in selectors(expr)]
    others = [name for name in named if not name.startswith(("tally_", "tally:"))]
    return named.count("tally_build_info") >= len(others)


_OPERATORS: Final = (
    (promql.MatchOp.Equal, "="),
    (promql.MatchOp.NotEqual, "!="),
    (promql.MatchOp.Re, "=~"),
    (promql.MatchOp.NotRe, "!~"),
)


def _selectors(node: Any, within: frozenset[str]) -> Iterator[Selector]:
    match node:
        case promql.VectorSelector():
            yield _selector(node, within)
        case promql.MatrixSelector():
            yield _selector(node.vector_selector, within)
        case promql.AggregateExpr():
            yield from _selectors(node.expr, _grouped(node) if node.modifier else frozenset())
        case promql.BinaryExpr():
            yield from _selectors(node.lhs, within | _joined(node))
            yield from _selectors(node.rhs, _joined(node) or within)
        case promql.Call():
            for argument in node.args:
                yield from _selectors(argument, within)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _selectors(node.expr, within)
        case promql.NumberLiteral() | promql.StringLiteral():
            pass
        case _:
            raise ValueError(f"{type(node).__name__} is not known here")


def _selector(node: Any, within: frozenset[str]) -> Selector:
    matchers = (Matcher(m.name, _operator(m.op), m.value) for m in node.matchers.matchers)
    return Selector(node.name, tuple(matchers), within)


def _operator(given: Any) -> str:
    return next(written for op, written in _OPERATORS if op == given)


def _grouped(node: Any) -> frozenset[str]:
    assert node.modifier.type == promql.AggModifierType.By, "group `by` what is kept, so that it can be checked"
    return frozenset(node.modifier.labels)


def _joined(node: Any) -> frozenset[str]:
    modifier = node.modifier
    if modifier is None or modifier.matching is None:
        return frozenset()
    return frozenset(modifier.matching.labels)
