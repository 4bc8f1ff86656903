"""What a metric is: its declaration, the family it becomes in one service, and the child that is moved.

Children are remembered here: asking prometheus_client for them costs four times what moving them does.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar, overload

import prometheus_client
from prometheus_client.metrics import MetricWrapperBase

from tally.chassis.context import Context

Child = TypeVar("Child", bound=MetricWrapperBase)

# OpenTelemetry's advice for HTTP durations, with two finer steps: most calls here end within 5 ms.
_DURATIONS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class Family(Generic[Child]):
    """One metric of one service; called with label values, in the order of declaration, it gives their child."""

    __slots__ = ("_children", "_labels", "_metric")

    def __init__(self, metric: Child, labels: tuple[str, ...]) -> None:
        self._metric = metric
        self._labels = labels
        self._children: dict[tuple[str, ...], Child] = {}

    def __call__(self, *values: str) -> Child:
        child = self._children.get(values)
        return child if child is not None else self._remember(values)

    def initialise(self, **values: Iterable[str]) -> None:
        """Makes the children of every combination, so that a counter exists, at 0, before its first event.

        (A counter that appears with its first event has no increase for `rate` to see.)
        """
        if set(values) != set(self._labels):
            raise ValueError(f"the labels are {', '.join(self._labels)}, not {', '.join(values)}")
        for combination in itertools.product(*(values[label] for label in self._labels)):
            self(*combination)

    def _remember(self, values: tuple[str, ...]) -> Child:
        child = self._metric.labels(*values) if self._labels else self._metric
        self._children[values] = child
        return child


class _Histogram(prometheus_client.Histogram):
    """prometheus_client's, which finds the bucket by halving, not one by one: most observations have no exemplar."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        if exemplar is not None:
            super().observe(amount, exemplar)
        else:
            self._sum.inc(amount)
            self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


class HasRegistry(Protocol):
    """A service's signals: where its metrics are registered."""

    registry: prometheus_client.CollectorRegistry


class Metric(Generic[Child]):
    """A declaration. On the class it is itself; on a `Signals` it is that service's `Family`."""

    def __init__(
        self,
        kind: type[Child],
        sentence: str,
        *labels: str,
        buckets: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        self.kind = kind
        self.sentence = sentence
        self.labels = labels
        self._buckets = buckets
        self._full_name = name
        self._attribute = ""

    @property
    def name(self) -> str:
        """As it is in the exposition (a histogram's series add `_bucket`, `_sum` and `_count`)."""
        return self._full_name or f"tally_{self._attribute}"

    def __set_name__(self, owner: type, attribute: str) -> None:
        self._attribute = attribute

    @overload
    def __get__(self, signals: None, owner: type) -> Metric[Child]: ...
    @overload
    def __get__(self, signals: HasRegistry, owner: type) -> Family[Child]: ...
    def __get__(self, signals: HasRegistry | None, owner: type) -> Metric[Child] | Family[Child]:
        if signals is None:
            return self
        # Without a `__set__`, the instance's own attribute comes first from now on: this runs once per service.
        family = self._build(signals.registry)
        signals.__dict__[self._attribute] = family
        return family

    def _build(self, registry: prometheus_client.CollectorRegistry) -> Family[Child]:
        buckets: dict[str, Any] = {} if self._buckets is None else {"buckets": self._buckets}
        metric = self.kind(self.name, self.sentence, self.labels, registry=registry, **buckets)
        return Family(metric, self.labels)


def counter(sentence: str, *labels: str) -> Metric[prometheus_client.Counter]:
    return Metric(prometheus_client.Counter, sentence, *labels)


def gauge(sentence: str, *labels: str) -> Metric[prometheus_client.Gauge]:
    return Metric(prometheus_client.Gauge, sentence, *labels)


def histogram(
    sentence: str, *labels: str, buckets: Sequence[float] = _DURATIONS_S, name: str | None = None
) -> Metric[prometheus_client.Histogram]:
    return Metric(_Histogram, sentence, *labels, buckets=buckets, name=name)


def exemplar(context: Context | None) -> dict[str, str] | None:
    """What links an observation to its trace; None where nobody recorded that trace."""
    return {"trace_id": context.trace_id} if context is not None and context.sampled else None
