"""Callbacks go to the addresses that were checked, whatever the name servers say and however often."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from consumer.errors import CallbackFailed
from consumer.outbound.callback import Backend
from consumer.outbound.hosts import AllowedHosts
from consumer.outbound.pinned import PinnedNetwork, PinnedTransport, look_up
from contracts.failure import FailureClass
from tests.contracts.samples import RESULT
from tests.outbound.backend import SmallBackend, serving
from tests.outbound.certificates import Authority
from tests.outbound.deliveries import job

HERE = "127.0.0.1"
CONFIGURATION = (FailureClass.CONFIGURATION, False)
OUTAGE = (FailureClass.TRANSIENT, True)
PERMANENT = (FailureClass.PERMANENT, False)


@pytest.fixture
def backend() -> Iterator[SmallBackend]:
    with serving() as small:
        yield small


@dataclass
class Names:
    """A name server: each answer is a list of addresses; the last one stays."""

    answers: list[Sequence[str]]
    asked: list[str] = field(default_factory=list)

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def call(
    *urls: str,
    entries: Sequence[str],
    names: Names | None = None,
    local: bool = False,
    timeout: float = 5.0,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Call every url once, one after the other."""

    async def story() -> None:
        hosts = AllowedHosts.of(entries, allow_loopback=local)
        async with PinnedTransport(hosts, tls, names or look_up) as transport:
            for url in urls:
                await Backend(transport, timeout, None, hosts).deliver(job(callback_url=url), RESULT)

    asyncio.run(story())


def refusal(*urls: str, **how: object) -> CallbackFailed:
    with pytest.raises(CallbackFailed) as failed:
        call(*urls, **how)  # type: ignore[arg-type]
    return failed.value


def meaning(failed: CallbackFailed) -> tuple[FailureClass, bool]:
    return failed.failure_class, failed.outage


class TestPinning:
    def test_the_connection_goes_to_the_address_that_was_checked(self, backend: SmallBackend) -> None:
        names = Names([[HERE]])

        call(
            f"http://backend.test:{backend.port}/hook",
            entries=["http://backend.test"],
            names=names,
            local=True,
        )

        assert [one.headers["host"] for one in backend.calls] == [f"backend.test:{backend.port}"]
        assert names.asked == ["backend.test"]  # once: what is connected to is what was checked

    def test_a_name_that_changes_its_address_is_checked_again_with_each_connection(
        self, backend: SmallBackend
    ) -> None:
        backend.headers = {"Connection": "close"}
        names = Names([[HERE], ["169.254.169.254"]])
        url = f"http://a.backend.test:{backend.port}/"

        failed = refusal(url, url, entries=["http://*.backend.test"], names=names, local=True)

        assert meaning(failed) == PERMANENT
        assert "169.254.169.254" in str(failed)
        assert (len(backend.calls), len(names.asked)) == (1, 2)

    def test_a_connection_that_is_kept_was_checked_when_it_was_made(self, backend: SmallBackend) -> None:
        names = Names([[HERE], ["169.254.169.254"]])
        url = f"http://backend.test:{backend.port}/"

        call(url, url, entries=["http://backend.test"], names=names, local=True)

        assert (len(backend.calls), backend.connections, len(names.asked)) == (2, 1, 1)

    def test_two_names_at_one_address_share_no_connection(self, backend: SmallBackend) -> None:
        urls = [f"http://{name}.backend.test:{backend.port}/" for name in ("a", "b")]

        call(*urls, entries=["http://*.backend.test"], names=Names([[HERE]]), local=True)

        assert backend.connections == 2

    def test_an_address_that_does_not_answer_is_followed_by_the_next(self, backend: SmallBackend) -> None:
        names = Names([["127.0.0.9", "::1", HERE]])

        call(f"http://backend.test:{backend.port}/", entries=["http://backend.test"], names=names, local=True)

        assert len(backend.calls) == 1

    def test_an_address_that_says_nothing_leaves_the_next_one_its_share_of_the_time(
        self, backend: SmallBackend
    ) -> None:
        with socket.socket() as silent, ExitStack() as waiting:
            silent.bind(("127.0.0.9", backend.port))
            silent.listen(0)
            for _ in range(3):  # nobody accepts them, and after two no more are let in
                one = waiting.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(("127.0.0.9", backend.port))
            names = Names([["127.0.0.9", HERE]])
            url = f"http://backend.test:{backend.port}/"

            call(url, entries=["http://backend.test"], names=names, local=True, timeout=2.0)

        assert len(backend.calls) == 1

    def test_this_machines_own_name_is_found_in_local_mode(self, backend: SmallBackend) -> None:
        url = f"http://localhost:{backend.port}"

        call(f"{url}/", entries=[url], local=True)

        assert len(backend.calls) == 1


class TestForbiddenAddresses:
    @pytest.mark.parametrize(
        "address",
        [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fd20:ce::254",
            "fe80::1%1",
            "224.0.0.1",
            "0.0.0.0",
            "::",
            HERE,
            "::1",
            "::ffff:127.0.0.1",
            "2002:7f00:1::",
            "255.255.255.255",
        ],
    )
    def test_no_name_leads_to_metadata_link_local_multicast_or_this_machine(
        self, backend: SmallBackend, address: str
    ) -> None:
        names = Names([[address]])
        how = {"names": names, "timeout": 1.0}

        chosen = refusal(f"http://x.backend.test:{backend.port}/", entries=["http://*.backend.test"], **how)
        named = refusal(f"http://backend.test:{backend.port}/", entries=["http://backend.test"], **how)

        assert meaning(chosen) == PERMANENT  # a message chose the name
        assert meaning(named) == CONFIGURATION  # the operator did: no message is to blame, all wait
        assert "may not be called" in str(named)
        assert backend.connections == 0

    @pytest.mark.parametrize("address", ["10.0.0.7", "192.168.1.1", "100.64.0.1", "fd12::1", "240.0.0.1"])
    def test_a_private_address_needs_an_entry_that_names_the_host_exactly(self, address: str) -> None:
        failed = refusal(
            "https://x.backend.test/", entries=["*.backend.test"], names=Names([[address]]), timeout=1.0
        )

        assert meaning(failed) == PERMANENT
        assert str(failed) == (
            f"callback host 'x.backend.test' stands for {address}, which may not be called; "
            "a private address needs an entry that names the host exactly"
        )
        found = [ipaddress.ip_address(address)]
        AllowedHosts.of(["backend.test"]).check_addresses("backend.test", 443, found)
        with pytest.raises(CallbackFailed):  # the entry names another port
            AllowedHosts.of(["backend.test:8443"]).check_addresses("backend.test", 443, found)

    def test_one_forbidden_address_among_others_is_enough(self, backend: SmallBackend) -> None:
        failed = refusal(
            f"http://x.backend.test:{backend.port}/",
            entries=["http://*.backend.test"],
            names=Names([[HERE, "169.254.169.254"]]),
            local=True,
        )

        assert meaning(failed) == PERMANENT
        assert backend.connections == 0

    @pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0x7f000001", "017700000001"])
    def test_an_address_that_only_resolvers_understand_is_what_they_understand(
        self, backend: SmallBackend, host: str
    ) -> None:
        url = f"http://{host}:{backend.port}"

        failed = refusal(f"{url}/", entries=[url])

        assert meaning(failed) == CONFIGURATION
        assert "stands for 127.0.0.1" in str(failed)
        assert backend.connections == 0

    def test_nothing_is_sent_before_the_address_is_checked(self, backend: SmallBackend) -> None:
        refusal(
            f"http://x.backend.test:{backend.port}/",
            entries=["http://*.backend.test"],
            names=Names([[HERE]]),
        )

        assert (backend.connections, backend.calls) == (0, [])


class TestWhatIsSent:
    @pytest.mark.anyio
    @pytest.mark.parametrize("size", [0, 10, 65_536, 65_537, 3_000_000])
    async def test_a_call_arrives_whole_whatever_its_size(self, size: int) -> None:
        got = await told_to_a_server_that_answers_twice([b"x" * size])

        assert [len(body) for body in got] == [size]

    @pytest.mark.anyio
    async def test_every_call_is_sent_though_the_server_answered_too_often_before(self) -> None:
        assert await told_to_a_server_that_answers_twice([b"first", b"second"]) == [b"first", b"second"]


async def told_to_a_server_that_answers_twice(bodies: Sequence[bytes]) -> list[bytes]:
    """Send them one after the other, and return what came."""
    got: list[bytes] = []
    came = asyncio.Semaphore(0)

    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"(?i)content-length: (\d+)", head)
                got.append(await reader.readexactly(int(length[1])) if length else b"")
                came.release()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" * 2)
        writer.close()

    async with await asyncio.start_server(twice, HERE, 0) as server:
        url = f"http://backend.test:{server.sockets[0].getsockname()[1]}/"
        hosts = AllowedHosts.of(["http://backend.test"], allow_loopback=True)
        async with PinnedTransport(hosts, lookup=Names([[HERE]])) as transport:
            for body in bodies:
                response = await transport.handle_async_request(httpx.Request("POST", url, content=body))
                await response.aread()
                async with asyncio.timeout(5):
                    await came.acquire()
    return got


class TestNameServers:
    def test_a_name_that_stands_for_nothing_is_an_outage(self) -> None:
        failed = refusal("https://backend.invalid/", entries=["backend.invalid"])

        assert meaning(failed) == OUTAGE
        assert str(failed).startswith("backend.invalid: ConnectError")

    @pytest.mark.parametrize("answer", [[], ["not an address"]])
    def test_so_is_an_answer_without_an_address(self, answer: Sequence[str]) -> None:
        failed = refusal("https://backend.test/", entries=["backend.test"], names=Names([answer]))

        assert meaning(failed) == OUTAGE

    def test_name_servers_that_hang_take_neither_long_nor_the_threads_of_others(self) -> None:
        over = threading.Event()

        def hang(host: str, port: int) -> Sequence[str]:
            over.wait(30)
            return [HERE]

        async def story() -> None:
            hosts = AllowedHosts.of(["*.backend.test"])
            async with PinnedTransport(hosts, lookup=hang) as transport:
                backend = Backend(transport, 0.3, None, hosts)
                start = time.monotonic()
                calls = [
                    asyncio.create_task(
                        backend.deliver(job(callback_url=f"https://x{i}.backend.test/"), RESULT)
                    )
                    for i in range(60)
                ]
                await asyncio.sleep(0)
                await asyncio.wait_for(asyncio.to_thread(lambda: None), 5)
                failed = await asyncio.gather(*calls, return_exceptions=True)
                assert time.monotonic() - start < 5
            for one in failed:
                assert isinstance(one, CallbackFailed)
                assert meaning(one) == OUTAGE

        try:
            asyncio.run(story())
        finally:
            over.set()


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return Authority.new(tmp_path)

    def test_the_certificate_is_checked_against_the_name_that_is_asked_for(
        self, authority: Authority
    ) -> None:
        told: list[str | None] = []
        server = authority.server("backend.test")
        server.sni_callback = lambda socket, name, context: told.append(name)

        with serving(server) as backend:
            url = f"https://backend.test:{backend.port}/"
            call(url, entries=["backend.test"], names=Names([[HERE]]), local=True, tls=authority.trust())

            assert told == ["backend.test"]
            assert len(backend.calls) == 1

    @pytest.mark.parametrize("name", ["other.test", HERE])
    def test_a_certificate_for_another_name_or_for_the_address_is_refused(
        self, authority: Authority, name: str
    ) -> None:
        with serving(authority.server(name)) as backend:
            failed = refusal(
                f"https://backend.test:{backend.port}/",
                entries=["backend.test"],
                names=Names([[HERE]]),
                local=True,
                tls=authority.trust(),
            )

            assert meaning(failed) == (FailureClass.CONFIGURATION, True)  # an operator has to act
            assert "certificate" in str(failed)
            assert backend.calls == []

    def test_a_connection_is_closed_on_which_nobody_says_hello(self) -> None:
        with socket.create_server((HERE, 0)) as server:
            url = f"https://backend.test:{server.getsockname()[1]}/"
            gc.disable()  # it would close what is forgotten
            try:
                refusal(url, entries=["backend.test"], names=Names([[HERE]]), local=True, timeout=0.2)
                ours, _ = server.accept()
                ours.settimeout(5)
                with ours:
                    while ours.recv(4096):
                        pass
            finally:
                gc.enable()

    def test_an_authority_nobody_knows_is_refused(self, authority: Authority) -> None:
        with serving(authority.server("backend.test")) as backend:
            failed = refusal(
                f"https://backend.test:{backend.port}/",
                entries=["backend.test"],
                names=Names([[HERE]]),
                local=True,
            )

            assert "certificate" in str(failed)
            assert backend.calls == []


class TestTheClientItself:
    def test_no_proxy_of_the_environment_is_taken(
        self, backend: SmallBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
            monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)

        call(f"{backend.url}/", entries=[backend.url], local=True)

        assert len(backend.calls) == 1

    def test_no_cookie_is_kept_or_sent(self, backend: SmallBackend) -> None:
        backend.headers = {"Set-Cookie": "session=planted; Path=/"}

        call(f"{backend.url}/", f"{backend.url}/", entries=[backend.url], local=True)

        assert [one.headers.get("cookie") for one in backend.calls] == [None, None]

    def test_it_follows_no_redirect_even_if_it_is_asked_to(self, backend: SmallBackend) -> None:
        backend.status, backend.headers = 307, {"Location": "http://169.254.169.254/"}

        failed = refusal(f"{backend.url}/", entries=[backend.url], local=True)

        assert meaning(failed) == CONFIGURATION
        assert len(backend.calls) == 1

    @pytest.mark.anyio
    async def test_it_goes_to_no_socket_file(self) -> None:
        network = PinnedNetwork(AllowedHosts(()))

        with pytest.raises(Exception, match="over TCP"):
            await network.connect_unix_socket("/var/run/docker.sock")
        network.close()

    @pytest.mark.anyio
    async def test_errors_are_those_httpx_has(self, backend: SmallBackend) -> None:
        backend.silent = True
        hosts = AllowedHosts.of([backend.url], allow_loopback=True)
        async with httpx.AsyncClient(transport=PinnedTransport(hosts), timeout=0.2) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(backend.url)
            with pytest.raises(httpx.UnsupportedProtocol):
                await client.post("ftp://127.0.0.1/")
