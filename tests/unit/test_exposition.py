"""The metrics page: what Prometheus' own parsers make of it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from kproxy import __version__
from kproxy.kube.requestinfo import parse
from kproxy.telemetry.exchange import Exchange
from kproxy.telemetry.metrics import METRICS, Metrics, Now
from kproxy.web.exposition import render

ODD = 'a "b"\\c\nd é'


@pytest.fixture
def counters() -> Metrics:
    """A little of everything, in a context with a name that must be escaped."""
    counters = Metrics(lambda exchange: None)
    exchange = Exchange("GET", "/api/v1/pods", "client", "listener")
    exchange.info = parse("GET", "/api/v1/pods")
    exchange.context = ODD
    exchange.status = 502
    exchange.proxy_error = "dns_error"
    exchange.finished_at = exchange.started_at + 1
    counters.note(exchange)
    counters.tally(ODD)
    return counters


NOW = Now(context=ODD, in_flight=1, watches=2, tunnels=3, connections=4, idle_connections=1, expires_at=1e9)
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def families(counters: Metrics, accept: str) -> dict[str, Metric]:
    body, media_type = render(counters.scrape([NOW], log_lines_dropped=5), accept)
    assert media_type.startswith("application/openmetrics-text" if accept else "text/plain; version=0.0.4")
    read = read_openmetrics if accept else read_text
    found: Iterable[Metric] = read(body.decode())
    return {family.name: family for family in found}


def family_name(metric: str) -> str:
    """Both parsers take a counter's suffix off."""
    return metric.removesuffix("_total") if METRICS[metric].kind == "counter" else metric


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_the_scrape_has_every_metric_and_no_other(counters: Metrics, accept: str) -> None:
    """Names, kinds, help and labels are those of METRICS; what the kernel tells begins with process_."""
    found = families(counters, accept)
    assert {name for name in found if not name.startswith("process_")} == {
        family_name(name) for name in METRICS if not name.startswith("process_")
    }
    assert "process_start_time_seconds" in found
    for name, about in METRICS.items():
        family = found[family_name(name)]
        assert (family.type, family.documentation) == (about.kind, about.help)
        assert family.samples, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(about.labels)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_names_are_escaped(counters: Metrics, accept: str) -> None:
    """The name of a context may hold anything."""
    [sample] = families(counters, accept)["kproxy_watches"].samples
    assert (sample.labels, sample.value) == ({"context": ODD}, 2)


def test_single_values_are_told(counters: Metrics) -> None:
    """Those that stand for the whole program, and the end of a credential."""
    found = families(counters, "")
    assert found["kproxy_log_lines_dropped"].samples[0].value == 5
    assert found["kproxy_build_info"].samples[0].labels["version"] == __version__
    assert found["kproxy_credential_expiry_timestamp_seconds"].samples[0].value == 1e9
    assert found["process_start_time_seconds"].samples[0].value == pytest.approx(counters.started_at)


def test_a_credential_without_an_end_has_no_sample(counters: Metrics) -> None:
    """0 would be an alert."""
    body, _ = render(counters.scrape([Now(context="c")], log_lines_dropped=0), "")
    assert "kproxy_credential_expiry_timestamp_seconds{" not in body.decode()
