"""RenewingSource: cached, renewed ahead of time, once for all, and again after a 401."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection

import pytest
from structlog.testing import capture_logs

from kproxy.credentials import Credential, renewal
from kproxy.credentials.credential import NO_RENEWAL, Content
from kproxy.credentials.renewal import RenewingSource
from kproxy.errors import CredentialError, ExecPluginError
from kproxy.tls.pair import ClientCertificate
from tests.support.clock import Clock


class Counter:
    """An issuer that numbers what it issues, and fails or waits when told to."""

    name = "counter"
    gives_certificates = True
    last_words = ""

    def __init__(self, clock: Clock, life_seconds: float | None = None) -> None:
        self.clock = clock
        self.life_seconds = life_seconds
        self.calls = 0
        self.avoided: Collection[Content] = ()
        self.error: Exception | None = None
        self.token: str | None = None
        self.certificate: tuple[bytes, bytes] | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()

    async def issue(self, avoid: Collection[Content]) -> Credential:
        self.calls += 1
        self.avoided = avoid
        token = self.token or f"t{self.calls}"
        self.reached.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        pair = self.certificate
        return Credential(
            authorization=f"Bearer {token}",
            certificate=ClientCertificate(certificate_pem=pair[0], key_pem=pair[1]) if pair else None,
            expires_at=None if self.life_seconds is None else self.clock() + self.life_seconds,
            kind="exec",
        )


class Setting:
    """A source with all that moves it. `settle` lets a renewal in the background come to its end."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.issuer = Counter(self.clock)
        self.source = RenewingSource(self.issuer, "x", clock=self.clock, monotonic=self.clock)

    async def token(self) -> str | None:
        return (await self.source.get()).authorization

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    setting = Setting()
    yield setting
    await setting.source.close()


async def test_nothing_is_issued_before_the_first_request(setting: Setting) -> None:
    """`current` alone asks nobody: a plugin must not run at start."""
    assert setting.source.current() is None
    await setting.settle()
    assert setting.issuer.calls == 0


async def test_what_has_no_end_is_issued_once(setting: Setting) -> None:
    """Every later call, of either kind, gets the same object."""
    first = await setting.source.get()
    setting.clock.pass_seconds(10**6)
    assert setting.source.current() is first
    assert await setting.source.get() is first
    assert setting.issuer.calls == 1


async def test_all_who_wait_share_one_renewal(setting: Setting) -> None:
    """Fifty requests at once ask once."""
    setting.issuer.gate.clear()
    waiting = [asyncio.create_task(setting.source.get()) for _ in range(50)]
    await setting.issuer.reached.wait()
    setting.issuer.gate.set()
    credentials = await asyncio.gather(*waiting)
    assert len(set(map(id, credentials))) == 1
    assert setting.issuer.calls == 1


async def test_a_cancelled_waiter_does_not_end_the_renewal_of_the_others(setting: Setting) -> None:
    """Not even the one that has started it."""
    setting.issuer.gate.clear()
    first = asyncio.create_task(setting.source.get())
    await setting.issuer.reached.wait()
    second = asyncio.create_task(setting.source.get())
    await setting.settle()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    setting.issuer.gate.set()
    assert (await second).authorization == "Bearer t1"
    assert setting.issuer.calls == 1


async def test_when_all_waiters_are_gone_the_result_is_kept(setting: Setting) -> None:
    """A login in a browser is not thrown away because the client lost patience."""
    setting.issuer.gate.clear()
    waiter = asyncio.create_task(setting.source.get())
    await setting.issuer.reached.wait()
    waiter.cancel()
    setting.issuer.gate.set()
    await setting.settle()
    current = setting.source.current()
    assert current is not None
    assert current.authorization == "Bearer t1"


async def test_it_is_renewed_in_the_background_before_it_ends(setting: Setting) -> None:
    """Requests go on with the old one meanwhile; there is one renewal, and then the new one is used."""
    setting.issuer.life_seconds = 3600.0
    first = await setting.source.get()
    setting.clock.pass_seconds(3299)
    assert setting.source.current() is first
    await setting.settle()
    assert setting.issuer.calls == 1, "it is not time yet"
    setting.clock.pass_seconds(2)
    setting.issuer.gate.clear()
    setting.issuer.reached.clear()
    for _ in range(10):
        assert setting.source.current() is first
    await setting.issuer.reached.wait()
    assert await setting.source.get() is first
    setting.issuer.gate.set()
    await setting.settle()
    second = setting.source.current()
    assert second is not None
    assert second.authorization == "Bearer t2"
    assert setting.issuer.calls == 2
    assert setting.issuer.avoided == {("Bearer t1", None)}


async def test_nothing_runs_while_there_is_no_traffic(setting: Setting) -> None:
    """An idle source has no task and no timer, however much time passes."""
    setting.issuer.life_seconds = 2.0
    await setting.source.get()
    before = asyncio.all_tasks()
    setting.clock.pass_seconds(10**5)
    await setting.settle()
    assert asyncio.all_tasks() == before
    assert setting.issuer.calls == 1


async def test_an_expired_one_is_never_current(setting: Setting) -> None:
    """After an idle night `current` has nothing, and `get` renews."""
    setting.issuer.life_seconds = 3600.0
    await setting.source.get()
    setting.clock.pass_seconds(3596)
    assert setting.source.current() is None
    setting.clock.pass_seconds(40000)
    assert setting.source.current() is None
    assert await setting.token() == "Bearer t2"


async def test_short_lives_are_renewed_at_most_once_each(setting: Setting) -> None:
    """Tokens of 2 s under steady traffic: always a good one at hand, and one renewal for each."""
    setting.issuer.life_seconds = 2.0
    await setting.source.get()
    for _ in range(600):
        setting.clock.pass_seconds(0.1)
        current = setting.source.current()
        assert current is not None
        assert current.expires_at is not None
        assert current.expires_at > setting.clock()
        await setting.settle()
    assert 30 <= setting.issuer.calls <= 61


async def test_a_failed_renewal_leaves_the_good_one_in_force(setting: Setting) -> None:
    """It is told of once, tried again later, and the error reaches nobody before the end."""
    setting.issuer.life_seconds = 3600.0
    first = await setting.source.get()
    setting.issuer.error = ExecPluginError("no network")
    with capture_logs() as logs:
        setting.clock.pass_seconds(3301)
        for _ in range(50):
            assert setting.source.current() is first
            await setting.settle()
        assert setting.issuer.calls == 2, "the next try is later"
        setting.clock.pass_seconds(150)
        assert setting.source.current() is first
        await setting.settle()
        assert setting.issuer.calls == 3
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in warnings] == ["credential.refresh_failed"] * 2, (
        "once a minute at most"
    )
    assert warnings[0]["context"] == "x"
    assert warnings[0]["error"] == "no network"
    setting.clock.pass_seconds(150)
    with pytest.raises(ExecPluginError, match="no network"):
        await setting.source.get()


async def test_a_streak_of_failures_is_told_once_a_minute(setting: Setting) -> None:
    """A success ends the streak: the next failure is told at once."""
    setting.issuer.error = ExecPluginError("broken")
    with capture_logs() as logs:
        for _ in range(30):
            setting.clock.pass_seconds(1.5)
            with pytest.raises(ExecPluginError):
                await setting.source.get()
        assert [entry["event"] for entry in logs] == ["credential.refresh_failed"]
        setting.issuer.error = None
        setting.clock.pass_seconds(1.5)
        refused = await setting.source.get()
        setting.source.invalidate(refused)
        setting.issuer.error = ExecPluginError("broken again")
        with pytest.raises(ExecPluginError):
            await setting.source.get(refused)
    assert [entry["event"] for entry in logs] == [
        "credential.refresh_failed",
        "credential.refreshed",
        "credential.refresh_failed",
    ]


async def test_a_broken_issuer_is_asked_once_a_second(setting: Setting) -> None:
    """Who comes within the second gets the same error; failures are not cached beyond it."""
    setting.issuer.error = ExecPluginError("broken")
    for _ in range(20):
        with pytest.raises(ExecPluginError, match="broken"):
            await setting.source.get()
    assert setting.issuer.calls == 1
    setting.clock.pass_seconds(0.99)
    with pytest.raises(ExecPluginError):
        await setting.source.get()
    assert setting.issuer.calls == 1
    setting.clock.pass_seconds(0.02)
    setting.issuer.error = None
    assert await setting.token() == "Bearer t2"


async def test_one_error_raised_to_many_does_not_grow(setting: Setting) -> None:
    """Each raise would add its frames to the one object otherwise, a leak under load."""
    setting.issuer.error = ExecPluginError("broken")
    depths = []
    for _ in range(3):
        with pytest.raises(ExecPluginError) as caught:
            await setting.source.get()
        depths.append(len(caught.traceback))
    assert depths[1] == depths[2]


async def test_an_error_of_ours_reaches_who_waits(setting: Setting) -> None:
    """A fault in the program is neither swallowed nor taken for the plugin's."""
    setting.issuer.error = ZeroDivisionError("a fault")
    with pytest.raises(ZeroDivisionError):
        await setting.source.get()


async def test_a_401_renews_once_for_all(setting: Setting) -> None:
    """Fifty requests that were sent with the same credential make one renewal."""
    first = await setting.source.get()
    setting.issuer.gate.clear()
    setting.issuer.reached.clear()

    async def refused() -> Credential:
        setting.source.invalidate(first)
        return await setting.source.get()

    waiting = [asyncio.create_task(refused()) for _ in range(50)]
    await setting.issuer.reached.wait()
    setting.issuer.gate.set()
    fresh = await asyncio.gather(*waiting)
    assert {credential.authorization for credential in fresh} == {"Bearer t2"}
    setting.source.invalidate(first)
    assert await setting.token() == "Bearer t2", "a late 401 of the old one does not touch the new one"
    assert setting.issuer.calls == 2
    assert setting.issuer.avoided == {("Bearer t1", None)}


async def test_the_same_token_after_a_401_is_handed_out_again_without_a_loop(setting: Setting) -> None:
    """The API server has the last word; the issuer is asked once a second at most."""
    setting.issuer.token = "same"
    credential = await setting.source.get()
    calls = []
    for _ in range(40):
        setting.source.invalidate(credential)
        credential = await setting.source.get()
        assert credential.authorization == "Bearer same"
        calls.append(setting.issuer.calls)
        setting.clock.pass_seconds(0.1)
    assert calls[0] == 2, "the first 401 is acted upon at once"
    assert setting.issuer.calls <= 2 + 4


async def test_401s_that_no_renewal_heals_start_fewer_and_fewer(setting: Setting) -> None:
    """A page that polls what answers 401, with a new token or the same, does not run a plugin each time."""
    runs = []
    for _ in range(7200):
        credential = await setting.source.get()
        if setting.source.invalidate(credential):
            await setting.source.get(credential)
        runs.append(setting.issuer.calls)
        setting.clock.pass_seconds(0.5)
    assert runs[:4] == [2, 2, 3, 3], "the first at once, the next after a second"
    assert runs[120] <= 2 + 6, "in the first minute"
    assert 60 <= runs[-1] <= 70, "in an hour: once a minute"


async def test_a_renewal_that_healed_a_401_makes_the_next_one_prompt(setting: Setting) -> None:
    """The 401 was about the credential: what a service behind the API server says is forgotten."""
    for _ in range(10):
        credential = await setting.source.get()
        setting.source.invalidate(credential)
        credential = await setting.source.get(credential)
    assert setting.issuer.calls == 2
    setting.source.confirm(credential)
    assert setting.source.invalidate(credential)
    assert (await setting.source.get(credential)).authorization == "Bearer t3"


@pytest.mark.parametrize("is_broken", [True, False])
async def test_a_401_takes_nothing_away(setting: Setting, is_broken: bool) -> None:
    """Nothing newer can be had: the old one serves, as in kubectl, up to its end."""
    setting.issuer.life_seconds = 3600.0
    setting.issuer.token = "same"
    first = await setting.source.get()
    if is_broken:
        setting.issuer.error = ExecPluginError("log in")
    assert setting.source.invalidate(first)
    if is_broken:
        with pytest.raises(ExecPluginError, match="log in"):
            await setting.source.get(first)
    else:
        assert await setting.source.get(first) is first
    for _ in range(6):
        assert setting.source.current() is await setting.source.get() is first
        assert not setting.source.invalidate(first), "a 401 is passed on at once then"
        setting.clock.pass_seconds(0.1)
    setting.clock.pass_seconds(3600)
    assert setting.source.current() is None


async def test_a_401_does_not_move_the_renewal_ahead_of_the_end(setting: Setting) -> None:
    """It stays due when it was, not sooner."""
    setting.issuer.life_seconds = 3600.0
    setting.issuer.error = None
    first = await setting.source.get()
    setting.issuer.error = ExecPluginError("broken")
    setting.source.invalidate(first)
    with pytest.raises(ExecPluginError):
        await setting.source.get(first)
    setting.issuer.error = None
    setting.clock.pass_seconds(3290)
    assert setting.source.current() is first
    await setting.settle()
    assert setting.issuer.calls == 2
    setting.clock.pass_seconds(20)
    assert setting.source.current() is first
    await setting.settle()
    assert setting.source.current() is not first


async def test_a_renewal_that_hangs_holds_up_who_was_not_refused_for_a_while_only(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only the first time: then it is doubtful that the 401s are about the credential."""
    monkeypatch.setattr(renewal, "PATIENCE_SECONDS", 0.05)
    first = await setting.source.get()
    setting.issuer.gate.clear()
    setting.issuer.reached.clear()
    setting.source.invalidate(first)
    assert setting.source.current() is None
    other = asyncio.create_task(setting.source.get())
    refused = asyncio.create_task(setting.source.get(first))
    await setting.issuer.reached.wait()
    setting.clock.pass_seconds(0.05)
    assert await other is first
    assert setting.source.current() is first
    assert not refused.done()
    setting.issuer.gate.set()
    second = await refused
    assert second.authorization == "Bearer t2"
    setting.clock.pass_seconds(1)
    setting.issuer.gate.clear()
    assert setting.source.invalidate(second)
    assert setting.source.current() is second


async def test_another_login_is_no_401(setting: Setting) -> None:
    """The credential of who was logged in before is not handed out again, even if nothing else can be had."""
    first = await setting.source.get()
    setting.source.discard(Credential())
    assert setting.source.current() is first
    setting.source.discard(first)
    setting.issuer.error = ExecPluginError("broken")
    assert setting.source.current() is None
    with pytest.raises(ExecPluginError):
        await setting.source.get()


# -- the certificate alone, for clients with an Authorization of their own --


async def test_a_certificate_is_waited_for_while_there_may_be_one(setting: Setting) -> None:
    """As in kubectl, where a TLS handshake runs the plugin."""
    setting.issuer.certificate = (b"cert", b"key")
    certificate = await setting.source.certificate()
    assert certificate is (await setting.source.get()).certificate is not None
    assert setting.issuer.calls == 1


async def test_who_needs_no_credential_is_not_failed_by_ours(setting: Setting) -> None:
    """Nor is a broken plugin run again for it; one that gives tokens only is not waited for."""
    setting.issuer.error = ExecPluginError("broken")
    for _ in range(5):
        assert await setting.source.certificate() is None
        setting.clock.pass_seconds(10)
    assert setting.issuer.calls == 1
    setting.issuer.error = None
    setting.issuer.life_seconds = 10.0
    await setting.source.get()
    setting.clock.pass_seconds(10)
    assert await setting.source.certificate() is None
    assert setting.issuer.calls == 2


async def test_an_issuer_without_certificates_is_not_asked_for_one(setting: Setting) -> None:
    """OIDC: nothing is fetched for a request that needs nothing."""
    setting.issuer.gives_certificates = False
    assert await setting.source.certificate() is None
    await setting.settle()
    assert setting.issuer.calls == 0


async def test_a_plugin_that_hangs_is_not_waited_for_long(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on for those who need it, and the next to come does not wait at all."""
    monkeypatch.setattr(renewal, "PATIENCE_SECONDS", 0.05)
    setting.issuer.gate.clear()
    assert await setting.source.certificate() is None
    setting.clock.pass_seconds(0.05)
    monkeypatch.setattr(renewal, "PATIENCE_SECONDS", 0.0)
    assert await setting.source.certificate() is None
    setting.issuer.gate.set()
    assert (await setting.source.get()).authorization == "Bearer t1"
    assert setting.issuer.calls == 1


# -- what is shown of it --


async def test_how_a_renewal_stands_is_told(setting: Setting) -> None:
    """Who is waited for and how long, what it says, and why the last one failed; asking starts nothing."""
    assert setting.source.renewal() == NO_RENEWAL
    setting.issuer.gate.clear()
    asking = asyncio.create_task(setting.source.get())
    await setting.issuer.reached.wait()
    setting.clock.pass_seconds(6.2)
    setting.issuer.last_words = "open https://login"
    standing = setting.source.renewal()
    assert (standing.waiting, standing.last_words) == ("waiting for counter, 6 s", "open https://login")
    setting.issuer.error = ExecPluginError("run acme login")
    setting.issuer.gate.set()
    with pytest.raises(ExecPluginError):
        await asking
    standing = setting.source.renewal()
    assert (standing.waiting, standing.problem) == (None, "run acme login")
    setting.issuer.error = None
    setting.clock.pass_seconds(1)
    await setting.source.get()
    assert setting.source.renewal() == NO_RENEWAL


async def test_a_401_by_mistake_does_no_harm(setting: Setting) -> None:
    """The token that is issued again is in use again: no further renewals."""
    setting.issuer.token = "same"
    setting.source.invalidate(await setting.source.get())
    again = await setting.source.get()
    for _ in range(10):
        setting.clock.pass_seconds(5)
        assert setting.source.current() is again
    assert setting.issuer.calls == 2


async def test_tokens_that_were_good_for_a_while_are_replaced_at_once(setting: Setting) -> None:
    """An API server that drops tokens every few seconds leaves nobody with a 401."""
    for number in range(1, 12):
        setting.source.invalidate(await setting.source.get())
        assert await setting.token() == f"Bearer t{number + 1}"
        setting.source.confirm(await setting.source.get())
        setting.clock.pass_seconds(0.5)


async def test_a_renewal_that_brings_what_was_refused_meanwhile_is_repeated(setting: Setting) -> None:
    """The issuer was asked before the API server refused just that token."""
    setting.issuer.life_seconds = 100.0
    setting.issuer.token = "cached"
    first = await setting.source.get()
    setting.issuer.gate.clear()
    setting.issuer.reached.clear()
    setting.clock.pass_seconds(92)
    assert setting.source.current() is first
    await setting.issuer.reached.wait()
    setting.issuer.token = "new"
    setting.source.invalidate(first)
    waiter = asyncio.create_task(setting.source.get())
    await setting.settle()
    setting.issuer.gate.set()
    assert (await waiter).authorization == "Bearer new"
    assert setting.issuer.calls == 3


async def test_the_same_token_again_is_not_asked_for_at_every_request(setting: Setting) -> None:
    """Plugins with a cache hand out a token up to its end: the tries get closer, but stay few."""
    end = setting.clock() + 3600.0
    setting.issuer.token = "cached"
    setting.issuer.life_seconds = 3600.0
    first = await setting.source.get()
    setting.clock.pass_seconds(3300)
    while setting.clock() < end - 6:
        setting.issuer.life_seconds = end - setting.clock()
        assert setting.source.current() is first, "the object stays, its connections with it"
        await setting.settle()
        setting.clock.pass_seconds(0.5)
    assert setting.issuer.calls < 15
    setting.clock.pass_seconds(5)
    setting.issuer.token = "new"
    setting.issuer.life_seconds = 3600.0
    assert await setting.token() == "Bearer new"


async def test_an_expired_one_from_the_issuer_is_used_and_told_of(setting: Setting) -> None:
    """If our clock is wrong it works, as in kubectl; the issuer is asked once a second only."""
    setting.issuer.life_seconds = -10.0
    with capture_logs() as logs:
        for _ in range(5):
            assert await setting.token() == "Bearer t1"
    assert setting.issuer.calls == 1
    assert [entry["event"] for entry in logs] == ["credential.expired"]
    assert setting.source.current() is None
    setting.clock.pass_seconds(1.1)
    assert await setting.token() == "Bearer t2"


async def test_an_expired_one_does_not_replace_a_good_one(setting: Setting) -> None:
    """The credential in use stays to its end."""
    setting.issuer.life_seconds = 3600.0
    first = await setting.source.get()
    setting.issuer.life_seconds = -1.0
    setting.clock.pass_seconds(3400)
    assert setting.source.current() is first
    await setting.settle()
    assert setting.issuer.calls == 2
    assert setting.source.current() is first


async def test_the_same_certificate_stays_the_same_object(setting: Setting) -> None:
    """A new token with it does not cost the connections that the certificate has opened."""
    setting.issuer.certificate = (b"cert", b"key")
    first = await setting.source.get()
    setting.source.invalidate(first)
    second = await setting.source.get()
    assert second is not first
    assert second.certificate is first.certificate
    setting.issuer.certificate = (b"cert2", b"key2")
    setting.clock.pass_seconds(2)
    setting.source.invalidate(second)
    third = await setting.source.get(second)
    assert third.certificate is not first.certificate


async def test_close_ends_the_renewal_and_those_who_wait(setting: Setting) -> None:
    """They get a credential error that says so, not a cancellation."""
    setting.issuer.gate.clear()
    waiter = asyncio.create_task(setting.source.get())
    await setting.issuer.reached.wait()
    await setting.source.close()
    with pytest.raises(CredentialError, match=r'context "x".*send the request again'):
        await waiter
    with pytest.raises(CredentialError):
        await setting.source.get()
    await setting.source.close()


async def test_renewals_are_told(setting: Setting) -> None:
    """The line says which context, what kind and until when, and nothing else."""
    setting.issuer.life_seconds = 60.0
    setting.issuer.token = "S3CR3T-never"
    with capture_logs() as logs:
        await setting.source.get()
    (entry,) = logs
    assert entry["event"] == "credential.refreshed"
    assert entry["context"] == "x"
    assert entry["credential"] == "exec"
    assert str(entry["expires_at"]).endswith("+00:00")
    assert "S3CR3T" not in repr(logs)
