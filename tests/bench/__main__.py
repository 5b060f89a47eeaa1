"""`python -m tests.bench`: what kproxy costs, beside kubectl proxy, nginx and a plain aiohttp proxy.

Needs, on Debian: `apt-get install nginx-light wrk`, and kubectl for its columns. What is missing is
named in the output and its cells stay empty. All load stays on 127.0.0.1; a full run takes under ten
minutes. The machine may be noisy, so the proxies take turns (A B C D A B C D) and every claim is a
ratio within one run. kproxy runs as shipped, with its default log to a file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import report
from tests.bench.drivers import LoadError
from tests.bench.measures import QUICK, Bench, Measure, Row, Scale, measures
from tests.bench.proxies import Contender, contenders
from tests.bench.report import Results
from tests.bench.upstreams import Upstream, find_nginx

README = Path(__file__).resolve().parents[2] / "README.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", metavar="ROW,...", help="measure these rows only")
    parser.add_argument("--proxies", metavar="NAME,...", help="of kproxy, kubectl, nginx, aiohttp")
    parser.add_argument("--rounds", type=int, help="turns of each proxy per row (default: 5)")
    parser.add_argument("--quick", action="store_true", help="short and few: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there")
    parser.add_argument("--update-readme", action="store_true", help="rewrite the table in README.md")
    parser.add_argument("--kubectl", metavar="PATH", help="the kubectl to compare with")
    parser.add_argument("--http1", action="store_true", help="the upstream offers no HTTP/2 (to kubectl)")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    return parser.parse_args()


def choose(all_measures: list[Measure], only: str | None) -> list[Measure]:
    if only is None:
        return all_measures
    wanted = set(only.split(","))
    chosen = []
    for measure in all_measures:
        keys = {measure.key, *(row.key for row in measure.rows)}
        if keys & wanted:
            chosen.append(measure)
            wanted -= keys
    if wanted:
        sys.exit(f"no such row: {', '.join(sorted(wanted))}; see --list")
    return chosen


async def run(bench: Bench, chosen: list[Measure], present: list[Contender], results: Results) -> None:
    for measure in chosen:
        if reason := measure.needs():
            results.problems.append(f"{measure.key}: {reason}")
            continue
        takers = [each for each in present if each.name in measure.contenders]
        started_at = time.monotonic()
        for number in range(min(bench.scale.rounds, measure.most_rounds)):
            for contender in list(takers):
                try:
                    results.add(contender.name, await measure.run(bench, contender))
                except (LoadError, OSError, AssertionError, TimeoutError) as error:
                    reason = str(error).strip().replace("\n", " ")[:300]
                    results.problems.append(f"{measure.key}, {contender.name}, round {number + 1}: {reason}")
                    takers.remove(contender)
        print(f"{measure.key}: {time.monotonic() - started_at:.0f} s", file=sys.stderr, flush=True)


def main() -> int:
    # As Ctrl-C: the programs that were started are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options = arguments()
    scale = QUICK if options.quick else Scale()
    if options.rounds:
        scale = Scale(**{name: getattr(scale, name) for name in Scale.__slots__} | {"rounds": options.rounds})
    chosen = choose(measures(scale), options.only)
    if options.list:
        print("\n".join(f"{row.key:18} {row.title} ({row.unit})" for each in chosen for row in each.rows))
        return 0
    if find_nginx() is None:
        sys.exit("the upstream needs nginx: apt-get install nginx-light")
    candidates = contenders(options.kubectl)
    if options.proxies:
        candidates = [each for each in candidates if each.name in options.proxies.split(",")]
    results = Results()
    if options.http1:
        results.problems.append("the upstream offered HTTP/1.1 alone (--http1)")
    load = os.getloadavg()[0]
    if load > 0.5:
        results.problems.append(f"the load average was {load:.1f} at the start; trust ratios alone")
    results.problems += [f"{each.name}: {each.missing}" for each in candidates if each.missing]
    with tempfile.TemporaryDirectory(prefix="kproxy-bench-") as name:
        directory = Path(name)
        upstream = Upstream(directory, offers_http2=not options.http1)
        bench = Bench(upstream, directory, scale)
        try:
            upstream.start()
            present = [each for each in candidates if each.missing is None]
            asyncio.run(run(bench, chosen, present, results))
        finally:
            results.problems += bench.close()
            upstream.kill()
    return publish([row for each in chosen for row in each.rows], results, candidates, options)


def publish(
    rows: list[Row], results: Results, candidates: list[Contender], options: argparse.Namespace
) -> int:
    section = report.readme_section(rows, results, candidates)
    print(section)
    if options.json:
        report.write_json(options.json, report.as_json(rows, results, candidates))
    if options.update_readme:
        report.update_readme(README, section)
    return 1 if results.problems else 0


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    sys.exit(main())
