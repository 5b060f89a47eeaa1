"""Counting finished requests: what is one row, what is `other`, and that nobody can make it grow for ever."""

from __future__ import annotations

import timeit

import pytest

from kproxy.kube.requestinfo import parse
from kproxy.telemetry import metrics
from kproxy.telemetry.exchange import Exchange
from kproxy.telemetry.metrics import MAX_LABEL_SETS, Metrics, Now, Scrape, Totals
from kproxy.web.exposition import render

PODS = "/api/v1/namespaces/ns/pods"


def ended(
    target: str = PODS,
    method: str = "GET",
    status: int = 200,
    *,
    seconds: float = 0.002,
    context: str | None = "prod",
    is_upgrade: bool = False,
) -> Exchange:
    """An exchange as whoever ends it hands it in."""
    exchange = Exchange(method, target.partition("?")[0], "client", "listener")
    if context is not None:
        exchange.info = parse(method, target, is_upgrade=is_upgrade)
    exchange.context = context
    exchange.status = status
    # From zero, so that no bound is missed by rounding.
    exchange.started_at = 0.0
    exchange.finished_at = seconds
    return exchange


def counted(*exchanges: Exchange) -> Metrics:
    counters = Metrics(lambda exchange: None)
    for exchange in exchanges:
        counters.note(exchange)
    return counters


def scraped(counters: Metrics, *now: Now) -> Scrape:
    return counters.scrape(now, log_lines_dropped=0)


def labels(counters: Metrics) -> dict[tuple[str, ...], int]:
    """Label set -> how many requests."""
    return {labels: row[metrics.COUNT] for labels, row in scraped(counters).rows}


def test_every_exchange_is_passed_on_once() -> None:
    """The access log hangs behind the counters."""
    passed: list[Exchange] = []
    exchange = ended()
    Metrics(passed.append).note(exchange)
    assert passed == [exchange]


def test_requests_of_one_kind_share_a_row() -> None:
    """Namespaces, names and queries make no difference, all else does."""
    other = "/api/v1/namespaces/other/pods?limit=5"
    counters = counted(
        ended(), ended(other), ended(status=403), ended(PODS + "/a"), ended(PODS + "/b"), ended(context="dev")
    )
    assert labels(counters) == {
        ("prod", "list", "", "pods", "", "200"): 2,
        ("prod", "list", "", "pods", "", "403"): 1,
        ("prod", "get", "", "pods", "", "200"): 2,
        ("dev", "list", "", "pods", "", "200"): 1,
    }


def test_groups_and_subresources_of_any_cluster_are_labels() -> None:
    """Custom resources are as good as those that Kubernetes comes with."""
    counters = counted(ended("/apis/stable.example.com/v1/namespaces/ns/crontabs/a/scale", "PUT"))
    assert list(labels(counters)) == [("prod", "update", "stable.example.com", "crontabs", "scale", "200")]


@pytest.mark.parametrize(
    ("target", "method", "status", "expected"),
    [
        ("/version", "GET", 200, ("get", "", "", "", "200")),
        ("/version", "BREW", 200, ("other", "", "", "", "200")),
        (PODS, "BREW", 405, ("other", "", "pods", "", "405")),
        (PODS, "GET", 299, ("list", "", "pods", "", "other")),
        (PODS, "GET", 0, ("list", "", "pods", "", "0")),
        ("/api/v1/PODS%0a", "GET", 200, ("list", "other", "other", "other", "200")),
        (f"/api/v1/{'p' * 300}", "GET", 200, ("list", "other", "other", "other", "200")),
        ("/api/v1/nonsense", "GET", 404, ("list", "other", "other", "other", "404")),
    ],
)
def test_a_label_is_never_what_a_client_made_up(
    target: str, method: str, status: int, expected: tuple[str, ...]
) -> None:
    """Methods, codes and names that no API server has are `other`, and so is a resource it does not know."""
    assert list(labels(counted(ended(target, method, status)))) == [("prod", *expected)]


def test_a_missing_object_of_a_known_resource_is_counted_as_such() -> None:
    """404 means "no such resource" only until the resource was found."""
    counters = counted(ended(PODS + "/a", status=404), ended(), ended(PODS + "/a", status=404))
    assert labels(counters)["prod", "get", "other", "other", "other", "404"] == 1
    assert labels(counters)["prod", "get", "", "pods", "", "404"] == 1


def test_the_number_of_rows_has_an_end() -> None:
    """Whoever asks for ever new resources gets as far as `other`; what had a row keeps it."""
    counters = counted(ended())
    for number in range(MAX_LABEL_SETS + 3000):
        counters.note(ended(f"/apis/g/v1/r{number}", status=403))
    counters.note(ended())
    found = labels(counters)
    assert MAX_LABEL_SETS <= len(found) <= MAX_LABEL_SETS + 10
    assert found["prod", "other", "other", "other", "other", "403"] == 3001
    assert found["prod", "list", "", "pods", "", "200"] == 2
    assert sum(found.values()) == MAX_LABEL_SETS + 3002
    assert len(counters._rows) <= 4096


def test_requests_that_are_none_of_the_api_have_no_context() -> None:
    """Static pages, our own endpoints, and heads that could not be read."""
    counters = counted(ended("/static/", context=None), ended("", "", 400, context=None))
    assert list(labels(counters)) == [("", "get", "", "", "", "200"), ("", "other", "", "", "", "400")]


def durations(counters: Metrics) -> list[str]:
    body, _ = render(scraped(counters), "")
    return [line for line in body.decode().splitlines() if line.startswith("kproxy_request_duration")]


def test_durations_fall_into_buckets() -> None:
    """A bound belongs to its bucket; buckets are cumulative, and codes are added up."""
    lines = durations(counted(ended(seconds=0.005), ended(seconds=0.3, status=403), ended(seconds=600)))
    values = {line.partition('le="')[2].partition('"')[0]: line.split()[-1] for line in lines[:-2]}
    assert values == {
        "0.005": "1.0", "0.01": "1.0", "0.025": "1.0", "0.05": "1.0", "0.1": "1.0", "0.25": "1.0",
        "0.5": "2.0", "1.0": "2.0", "2.5": "2.0", "5.0": "2.0", "10.0": "2.0", "30.0": "2.0", "60.0": "2.0",
        "+Inf": "3.0",
    }  # fmt: skip
    assert float(lines[-1].split()[-1]) == pytest.approx(600.305)


@pytest.mark.parametrize("target", [PODS + "?watch=true", PODS + "/a/log?follow=true"])
def test_streams_have_no_duration(target: str) -> None:
    """They end when somebody has seen enough, which says nothing of speed."""
    counters = counted(ended(target, seconds=1000))
    assert (len(labels(counters)), durations(counters)) == (1, [])


def test_bytes_and_errors_are_summed_up_by_context() -> None:
    """What runs now is added to what has ended."""
    first, second = ended(), ended(PODS, "POST", 502)
    first.bytes_out, second.bytes_in = 1000, 50
    second.proxy_error = "connection_refused"
    now = Now(context="prod", received_bytes=7, sent_bytes=11)
    counters = counted(first, second)
    body, _ = render(scraped(counters, now), "")
    lines = body.decode().splitlines()
    assert 'kproxy_sent_bytes_total{context="prod"} 1011.0' in lines
    assert 'kproxy_received_bytes_total{context="prod"} 57.0' in lines
    assert 'kproxy_errors_total{context="prod",kind="connection_refused"} 1.0' in lines
    assert counters.totals([now]) == Totals(
        requests=2, errors=1, received_bytes=57, sent_bytes=1011, dials=0, renewals=0, reloads=0
    )


def test_a_tally_outlives_the_upstreams_of_its_context() -> None:
    """A reload must not make counters jump back."""
    counters = counted()
    counters.tally("prod").dials += 1
    counters.tally("prod").dials += 1
    counters.tally("dev").fail("no route")
    body, _ = render(scraped(counters), "")
    lines = body.decode().splitlines()
    assert 'kproxy_upstream_dials_total{context="prod"} 2.0' in lines
    assert 'kproxy_upstream_failing{context="dev"} 1.0' in lines
    assert 'kproxy_upstream_failing{context="prod"} 0.0' in lines


def test_a_scrape_does_not_change_any_more() -> None:
    """It is written out by another thread, while requests go on."""
    counters = counted(ended())
    scrape = scraped(counters)
    counters.note(ended())
    [(_, row)] = scrape.rows
    assert row[metrics.COUNT] == 1


@pytest.mark.numbers
def test_the_cost_of_counting_is_measured() -> None:
    """No verdict: machines differ and are busy. The guard is the number of calls, in test_hot_path.py."""
    counters, exchange = counted(ended()), ended()
    number = 20_000
    seconds = min(timeit.repeat(lambda: counters.note(exchange), number=number, repeat=5)) / number
    print(f"counting a request: {seconds * 1e6:.2f} µs (aim: 1.5)")
    assert labels(counters)["prod", "list", "", "pods", "", "200"] == 1 + 5 * number
