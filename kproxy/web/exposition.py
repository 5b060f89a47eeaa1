"""A scrape in the words of Prometheus: plain text or OpenMetrics, written by prometheus_client."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kproxy import __version__
from kproxy.telemetry.metrics import (
    BOUNDS_SECONDS,
    BUCKETS,
    BYTES_IN,
    BYTES_OUT,
    COUNT,
    EMPTY_ROW,
    METRICS,
    SECONDS,
    Scrape,
)

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_Samples = list[tuple[tuple[str, ...], float]]


def render(scrape: Scrape, accept: str) -> tuple[bytes, str]:
    """Body and media type for an Accept header: OpenMetrics where it is asked for, else plain text.

    For a thread: with all label sets in use it takes a good part of a second, and at first the import, too.
    """
    # Imported here: it takes as long as kproxy itself, and few are scraped.
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        _Collected([*_families(scrape), *_of_the_kernel(ProcessCollector(registry=None).collect())])
    )
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


def _of_the_kernel(process: Iterable[Metric]) -> Iterator[Metric]:
    """What Linux tells of the process, but for its start, which we know everywhere."""
    return (each for each in process if each.name not in METRICS)


class _Collected:
    """A collector of what was collected already: a registry wants one."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(scrape: Scrape) -> Iterator[Metric]:
    """The metrics of METRICS, in its order, as prometheus_client has them."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    values = _values(scrape)
    for name, about in METRICS.items():
        if about.kind == "histogram":
            histogram = HistogramMetricFamily(name, about.help, labels=about.labels)
            for labels, buckets, seconds in _durations(scrape):
                histogram.add_metric(labels, buckets, seconds)
            yield histogram
            continue
        family = (CounterMetricFamily if about.kind == "counter" else GaugeMetricFamily)(
            name, about.help, labels=about.labels
        )
        for labels, value in values[name]:
            family.add_metric(labels, value)
        yield family


def _values(scrape: Scrape) -> dict[str, _Samples]:
    """Metric -> its samples; every context that is known has one, be it zero."""
    received: defaultdict[str, int] = defaultdict(int)
    sent: defaultdict[str, int] = defaultdict(int)
    for labels, row in scrape.rows:
        received[labels[0]] += row[BYTES_IN]
        sent[labels[0]] += row[BYTES_OUT]
    for now in scrape.contexts:
        received[now.context] += now.received_bytes
        sent[now.context] += now.sent_bytes
    contexts = scrape.contexts
    return {
        "kproxy_requests_total": [(labels, row[COUNT]) for labels, row in scrape.rows],
        "kproxy_requests_in_flight": [((now.context,), now.in_flight) for now in contexts],
        "kproxy_watches": [((now.context,), now.watches) for now in contexts],
        "kproxy_tunnels": [((now.context,), now.tunnels) for now in contexts],
        "kproxy_received_bytes_total": [((name,), count) for name, count in received.items()],
        "kproxy_sent_bytes_total": [((name,), count) for name, count in sent.items()],
        "kproxy_errors_total": [(labels, count) for labels, count in scrape.errors],
        "kproxy_upstream_connections": [((now.context,), now.connections) for now in contexts],
        "kproxy_upstream_idle_connections": [((now.context,), now.idle_connections) for now in contexts],
        "kproxy_upstream_dials_total": [((name,), dials) for name, dials, _, _ in scrape.tallies],
        "kproxy_upstream_failing": [((name,), int(fails)) for name, _, _, fails in scrape.tallies],
        "kproxy_credential_expiry_timestamp_seconds": [
            ((now.context,), now.expires_at) for now in contexts if now.expires_at is not None
        ],
        "kproxy_credential_renewals_total": [((name,), renewals) for name, _, renewals, _ in scrape.tallies],
        "kproxy_reloads_total": [((result,), count) for result, count in scrape.reloads],
        "kproxy_log_lines_dropped_total": [((), scrape.log_lines_dropped)],
        "kproxy_build_info": [((__version__, platform.python_version()), 1)],
        "process_start_time_seconds": [((), scrape.started_at)],
    }


def _durations(scrape: Scrape) -> Iterator[tuple[tuple[str, ...], list[tuple[str, float]], float]]:
    """For all labels but the code: cumulative buckets, and the sum of seconds."""
    sums: dict[tuple[str, ...], list[Any]] = {}
    for labels, row in scrape.rows:
        known = sums.setdefault(labels[:-1], list(EMPTY_ROW))
        for position in range(SECONDS, len(row)):
            known[position] += row[position]
    for labels_but_code, known in sums.items():
        total, buckets = 0, []
        for bound, count in zip((*BOUNDS_SECONDS, None), known[BUCKETS:], strict=True):
            total += count
            buckets.append(("+Inf" if bound is None else str(bound), float(total)))
        if total:
            yield labels_but_code, buckets, known[SECONDS]
