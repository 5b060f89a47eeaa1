"""The table of upstreams: which contexts are served, and how that is exchanged while requests are running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic

import structlog

from kproxy.errors import ConfigError, KubeconfigError
from kproxy.kube.contexts import Contexts, Served
from kproxy.kube.kubeconfig import ResolvedContext
from kproxy.upstream.upstream import Upstream

FAILURE_SECONDS = 1.0
"""How long a context that could not be opened is not tried again: each try may read files and authorities."""

_log = structlog.get_logger()


class Seat:
    """The place of one served context, and its upstream while that is open. Written by `Upstreams` alone."""

    __slots__ = ("entered", "failed_at", "failure", "idle_since", "served", "source", "upstream")

    def __init__(self, served: Served, source: ResolvedContext | KubeconfigError) -> None:
        self.served = served
        self.source = source
        self.upstream: Upstream | None = None
        self.entered = 0
        self.idle_since = 0.0
        self.failure: tuple[str, ...] = ()
        self.failed_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Seat {self.served.name!r} {self.upstream!r}>"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Table:
    """All that is served, from one change to the next: what was found in it may be remembered by identity."""

    default: Seat
    seats: Mapping[str, Seat]
    by_slug: Mapping[str, Seat]
    gone: Mapping[str, str] = field(default_factory=dict)
    """Slug -> name of what was served before: an origin that is open in a browser means no other context."""
    has_paths: bool

    @property
    def served(self) -> tuple[Served, ...]:
        return tuple(seat.served for seat in self.seats.values())

    def at_path(self, name: str) -> Seat | None:
        """The context that /clusters/ is followed by: its name, or its slug for clients that undo escapes.

        No name is another's slug. One that was, before a context of that name came, means neither.
        """
        if not name or self.gone.get(name, name) != name:
            return None
        return self.seats.get(name) or self.by_slug.get(name)


class Upstreams:
    """Owns every upstream, the retired ones until their last answer has ended too.

    The default context's is always open. The others are opened by their first request and, when nobody has
    used them for `idle_seconds` (0: for ever), closed again.
    """

    def __init__(
        self,
        open_upstream: Callable[[ResolvedContext], Upstream],
        contexts: Contexts,
        loop: asyncio.AbstractEventLoop,
        *,
        idle_seconds: float = 0.0,
    ) -> None:
        """Raises KubeconfigError, as `open_upstream` does for the default context."""
        self._open = open_upstream
        self._loop = loop
        self.idle_seconds = idle_seconds
        """May be changed; it counts from the next look at who is idle on."""
        self._contexts = contexts
        self._retired: set[Upstream] = set()
        self._sweep: asyncio.TimerHandle | None = None
        seats = {
            served.name: Seat(served, contexts.default if served.is_default else contexts.others[served.name])
            for served in contexts.served
        }
        self.table = self._tabulate(seats, {})
        self.table.default.upstream = open_upstream(contexts.default)
        for seat in seats.values():
            self._look_at(seat)

    def __repr__(self) -> str:
        opened = len(list(self.opened()))
        return f"<Upstreams {self.default!r}, {opened} open, {len(self._retired)} retired>"

    def _tabulate(self, seats: Mapping[str, Seat], gone: Mapping[str, str]) -> Table:
        by_slug = {seat.served.slug: seat for seat in seats.values()}
        return Table(
            default=seats[self._contexts.default.name],
            seats=seats,
            by_slug=by_slug,
            gone={slug: name for slug, name in gone.items() if slug not in by_slug},
            has_paths=self._contexts.has_paths,
        )

    # -- who is served --

    @property
    def default(self) -> Upstream:
        upstream = self.table.default.upstream
        assert upstream is not None
        return upstream

    @property
    def served(self) -> tuple[Served, ...]:
        """Every context that can be asked for, open or not; the default one first."""
        return self.table.served

    def opened(self) -> Iterator[Upstream]:
        """What is open at the moment, the default context's first; nothing that is retired."""
        for seat in list(self.table.seats.values()):
            if seat.upstream is not None:
                yield seat.upstream

    @property
    def is_behind(self) -> bool:
        """Whether an open context goes on as it was because what the files say by now is of no use."""
        return any(
            seat.upstream is not None and seat.upstream.context != seat.source
            for seat in self.table.seats.values()
        )

    def open(self, seat: Seat) -> Upstream:
        """Open the upstream of a seat that has none. Raises KubeconfigError for settings of no use."""
        now = monotonic()
        if now - seat.failed_at < FAILURE_SECONDS:
            raise KubeconfigError(seat.failure)
        try:
            upstream = self._open(self._settings(seat))
        except ConfigError as error:
            seat.failed_at = now
            self._note_failure(seat, error)
            raise KubeconfigError(error.problems) from error
        seat.upstream = upstream
        seat.failure = ()
        seat.entered = upstream.entered
        seat.idle_since = now
        _log.info("context.opened", context=upstream.name, server=upstream.context.cluster.server)
        upstream.warn_if_ending()
        self._sweep_later()
        return upstream

    def _settings(self, seat: Seat) -> ResolvedContext:
        source = seat.source
        if isinstance(source, KubeconfigError):
            again = self._contexts.resolve_again
            if again is None:
                raise KubeconfigError(source.problems)
            source = seat.source = again(seat.served.name)
        return source

    def _look_at(self, seat: Seat) -> None:
        if isinstance(seat.source, KubeconfigError):
            self._note_failure(seat, seat.source)

    def note_failure(self, context: ResolvedContext, error: ConfigError) -> None:
        """Somebody found out what will be wrong with a context once it is opened."""
        seat = self.table.seats.get(context.name)
        if seat is not None and seat.upstream is None and seat.source == context:
            self._note_failure(seat, error)

    def _note_failure(self, seat: Seat, error: ConfigError) -> None:
        """Tell once what is wrong with a context."""
        if error.problems != seat.failure:
            seat.failure = error.problems
            _log.warning("context.unusable", context=seat.served.name, problems=error.problems)

    # -- what changes --

    def apply(
        self,
        contexts: Contexts,
        *,
        open_upstream: Callable[[ResolvedContext], Upstream] | None = None,
        idle_seconds: float | None = None,
    ) -> bool:
        """Serve `contexts` from now on; False when that changes nothing.

        New requests go to the new upstreams, running ones stay with the old ones until they end. Equal
        settings keep connections, tunnels and credentials; files of authorities are looked at all the same.
        With another `open_upstream` nothing is equal. Raises KubeconfigError when the default context cannot
        be used, and then changes nothing. Another context that is open and cannot be used any more goes on as
        it was.
        """
        opens = open_upstream or self._open
        old = self.table
        known = old.seats.get(contexts.default.name)
        before = known.upstream if known is not None else None
        is_changed = False
        if open_upstream is None and before is not None and before.context == contexts.default:
            first, is_changed = before, before.take_up(contexts.default)
        else:
            first = opens(contexts.default)
        self._open = opens
        seats: dict[str, Seat] = {}
        for served in contexts.served:
            source = contexts.default if served.is_default else contexts.others[served.name]
            seat = seats[served.name] = old.seats.get(served.name) or Seat(served, source)
            if source != seat.source:
                seat.failed_at = float("-inf")
                if isinstance(source, ResolvedContext):
                    # What was wrong with the old settings says nothing of these.
                    seat.failure = ()
            # Taken even if it is equal: OIDC tokens do not count for that, and the old ones may be spent.
            seat.source = source
            if not served.is_default:
                if open_upstream is not None:
                    # The next request opens it in the new way.
                    self._retire(seat)
                is_changed |= self._renew(seat)
        for name, seat in old.seats.items():
            if name not in seats:
                self._retire(seat)
        seat = seats[contexts.default.name]
        if seat.upstream is not first:
            self._retire(seat)
            seat.upstream = first
            is_changed = True
        is_same_table = contexts.served == old.served and contexts.has_paths == old.has_paths
        gone = {**old.gone, **{slug: each.served.name for slug, each in old.by_slug.items()}}
        for served in contexts.served:
            seats[served.name].served = served
        self._contexts = contexts
        if idle_seconds is not None and idle_seconds != self.idle_seconds:
            self.idle_seconds = idle_seconds
            self._stop_sweeping()
        if not is_same_table:
            self.table = self._tabulate(seats, gone)
        self._sweep_later()
        return is_changed or not is_same_table

    def _renew(self, seat: Seat) -> bool:
        """Take up the new settings of a context that is open."""
        upstream, source = seat.upstream, seat.source
        if upstream is None or isinstance(source, KubeconfigError):
            self._look_at(seat)
            return False
        try:
            if source == upstream.context:
                is_changed = upstream.take_up(source)
            else:
                fresh = self._open(source)
                self._retire(seat)
                seat.upstream = fresh
                fresh.warn_if_ending()
                is_changed = True
        except ConfigError as error:
            self._note_failure(seat, error)
            return False
        seat.failure = ()
        return is_changed

    def _retire(self, seat: Seat) -> None:
        upstream, seat.upstream = seat.upstream, None
        if upstream is not None:
            # What takes its place has not failed yet; perhaps nothing does.
            upstream.tally.is_failing = False
            self._retired.add(upstream)
            upstream.retire(self._retired.discard)

    # -- what nobody uses --

    def _sweep_later(self) -> None:
        if self.idle_seconds and self._sweep is None:
            self._sweep = self._loop.call_later(self.idle_seconds / 4, self._close_unused)

    def _stop_sweeping(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _close_unused(self) -> None:
        self._sweep = None
        now = monotonic()
        default = self.table.default
        for seat in self.table.seats.values():
            upstream = seat.upstream
            if upstream is None or seat is default:
                continue
            if upstream.is_in_use or upstream.entered != seat.entered:
                seat.entered = upstream.entered
                seat.idle_since = now
            elif now - seat.idle_since >= self.idle_seconds:
                _log.info("context.closed", context=upstream.name)
                self._retire(seat)
                continue
            self._sweep_later()

    async def close(self) -> None:
        """End every connection and credential source. Idempotent."""
        self._stop_sweeping()
        for upstream in (*self.opened(), *self._retired):
            await upstream.close()
        self._retired.clear()
