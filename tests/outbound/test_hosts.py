"""Where a callback may go: to hosts the operator named, and to nothing that only looks like them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import CallbackFailed
from consumer.outbound.hosts import AllowedHosts
from contracts.failure import FailureClass


def refused(url: str, *entries: str, loopback: bool = False) -> CallbackFailed | None:
    try:
        AllowedHosts.of(entries, allow_loopback=loopback).check(url)
    except CallbackFailed as error:
        return error
    return None


def refusal(url: str, *entries: str, loopback: bool = False) -> str:
    """Return why a url is refused; empty if it is not."""
    error = refused(url, *entries, loopback=loopback)
    return str(error) if error else ""


def allowed(url: str, *entries: str, loopback: bool = False) -> bool:
    return not refusal(url, *entries, loopback=loopback)


class TestExactEntries:
    @pytest.mark.parametrize(
        "url",
        [
            "https://api.example.com",
            "https://api.example.com/any/path?x=1#y",
            "https://API.Example.COM/",
            "https://api.example.com:443/",
            "https://api.example.com:8443/",
            "HTTPS://api.example.com/",
        ],
    )
    def test_the_host_that_is_named_may_be_called(self, url: str) -> None:
        assert allowed(url, "api.example.com")
        assert allowed(url, "https://api.example.com")
        assert allowed(url, "other.example.com", "API.example.com")

    @pytest.mark.parametrize(
        "url",
        [
            "https://example.com/",
            "https://x.api.example.com/",
            "https://api.example.com.evil.example/",
            "https://api.example.com./",
            "https://evilapi.example.com/",
            "https://evil.example/?api.example.com",
            "https://evil.example/#@api.example.com",
            "https://evil.example\\.api.example.com/",
            "https://api.example.com%2eevil.example/",
            "https://api.example.com%00.evil.example/",
            "ftp://api.example.com/",
            "file:///api.example.com",
            "//api.example.com/",
            "api.example.com",
            "https:api.example.com",
            "",
        ],
    )
    def test_what_only_looks_like_it_may_not(self, url: str) -> None:
        assert not allowed(url, "api.example.com")

    def test_no_host_is_allowed_that_nobody_named(self) -> None:
        assert not allowed("https://api.example.com/")

    def test_an_international_name_is_one_host_however_it_is_written(self) -> None:
        assert allowed("https://b\u00fccher.example/", "xn--bcher-kva.example")
        assert allowed("https://xn--bcher-kva.example/", "b\u00fccher.example")
        assert not allowed("https://b\u00fccher.example/", "bucher.example")
        assert allowed("https://a\u3002example/", "a.example")  # the client would call a.example

    def test_a_refusal_is_for_good_and_no_outage(self) -> None:
        error = refused("https://evil.example/", "api.example.com")

        assert error is not None
        assert (error.failure_class, error.outage) == (FailureClass.PERMANENT, False)

    def test_a_refusal_names_the_host_and_the_setting(self) -> None:
        message = refusal("https://evil.example:8443/x?secret=1", "api.example.com")

        assert message.startswith(
            "callback_url https://evil.example:8443 is not allowed: CALLBACK_ALLOWED_HOSTS"
        )
        assert "secret" not in message


class TestSchemesAndPorts:
    def test_plain_http_is_allowed_only_where_the_entry_says_so(self) -> None:
        assert not allowed("http://api.example.com/", "api.example.com")
        assert not allowed("http://api.example.com/", "https://api.example.com")
        assert allowed("http://api.example.com/", "http://api.example.com")
        assert allowed("https://api.example.com/", "http://api.example.com")

    def test_an_entry_with_a_port_allows_that_port_only(self) -> None:
        assert allowed("http://backend:8080/", "http://backend:8080")
        assert not allowed("http://backend/", "http://backend:8080")
        assert not allowed("http://backend:8081/", "http://backend:8080")

    def test_a_default_port_is_the_same_whether_it_is_written_or_not(self) -> None:
        assert allowed("https://backend/", "backend:443")
        assert allowed("https://backend:443/", "backend:443")
        assert allowed("http://backend/", "http://backend:80")
        assert not allowed("http://backend/", "http://backend:443")

    @pytest.mark.parametrize(
        "url", ["https://backend:99999/", "https://backend:x/", "https://backend:-1/", "https://backend:0/"]
    )
    def test_a_port_that_is_none_is_refused(self, url: str) -> None:
        assert not allowed(url, "backend:443")

    @pytest.mark.parametrize(
        "entry",
        [
            "",
            "https://",
            "ftp://host",
            "host:port",
            "host:99999",
            "host:0",
            "http://[::1",
            "a b",
            "a..b",
            "*",
            "*.",
            "a.*.example",
            "**.example",
            "*.0.0.1",
            "*.1",
            "*.0x7f",
            "*.10.0.0.1",
            "*.[::1]",
            "-a.example",
            "[fe80::1%eth0]",
            "a" * 64,
            "https://user:pw@host",
        ],
    )
    def test_an_entry_that_names_no_host_is_the_operators_mistake(self, entry: str) -> None:
        with pytest.raises(ValueError, match="callback host"):
            AllowedHosts.of([entry])


class TestWildcards:
    def test_a_wildcard_stands_for_every_host_below_a_domain(self) -> None:
        assert allowed("https://a.example.com/", "*.example.com")
        assert allowed("https://a.b.example.com/", "*.example.com")
        assert not allowed("https://example.com/", "*.example.com")
        assert not allowed("https://evilexample.com/", "*.example.com")
        assert not allowed("https://a.example.com.evil.example/", "*.example.com")

    @pytest.mark.parametrize(
        "url", ["https://10.0.0.1/", "https://127.0.0.1/", "https://[::1]/", "https://localhost/"]
    )
    def test_it_never_stands_for_an_address(self, url: str) -> None:
        assert not allowed(url, "*.example.com", "*.example", loopback=True)

    @pytest.mark.parametrize(
        "url",
        [
            "https://evil.example\\.example.com/",
            "https://evil.example%2f.example.com/",
            "https://evil.example%00.example.com/",
            "https://evil..example.com/",
            "https://.example.com/",
            "https://a.example.com./",
            "https://-.example.com/",
            "https://" + "a" * 64 + ".example.com/",
            "https://" + "a." * 130 + "example.com/",
            "https://a b.example.com/",
            "https://{a}.example.com/",
            "https://a@b.example.com/",
        ],
    )
    def test_what_only_looks_like_a_host_is_refused_by_a_wildcard_too(self, url: str) -> None:
        assert not allowed(url, "*.example.com")

    def test_an_international_domain_may_have_one(self) -> None:
        assert allowed("https://a.b\u00fccher.example/", "*.b\u00fccher.example")
        assert allowed("https://a.b\u00fccher.example/", "*.xn--bcher-kva.example")


class TestPrivateAddresses:
    @pytest.mark.parametrize("host", ["10.0.0.7", "192.168.1.1", "172.16.0.1", "[fd12::1]", "backend"])
    def test_a_private_host_may_be_called_if_it_is_named_exactly(self, host: str) -> None:
        assert allowed(f"https://{host}/", host)

    @pytest.mark.parametrize(
        "host",
        [
            "169.254.169.254",
            "169.254.0.1",
            "[fe80::1]",
            "[::ffff:169.254.169.254]",
            "metadata.google.internal",
            "Metadata.Google.Internal",
            "metadata",
        ],
    )
    @pytest.mark.parametrize("loopback", [True, False])
    def test_metadata_and_link_local_hosts_are_never_called(self, host: str, loopback: bool) -> None:
        assert "never allowed" in refusal(f"http://{host}/", f"http://{host}", loopback=loopback)
        assert not allowed("https://metadata.google.internal/", "*.google.internal", loopback=loopback)

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]", "localhost", "a.localhost", "0.0.0.0"],
    )
    def test_this_machine_is_called_in_local_mode_only(self, host: str) -> None:
        assert "never allowed" in refusal(f"http://{host}:8090/", f"http://{host}:8090")
        assert allowed(f"http://{host}:8090/", f"http://{host}:8090", loopback=True)

    def test_even_in_local_mode_it_must_be_named(self) -> None:
        assert not allowed("http://127.0.0.1/", "api.example.com", loopback=True)


class TestCredentials:
    @pytest.mark.parametrize(
        "url",
        [
            "https://user:secret@api.example.com/",
            "https://secret@api.example.com/",
            "https://:secret@api.example.com",
        ],
    )
    def test_a_url_with_credentials_is_refused_and_they_are_not_shown(self, url: str) -> None:
        message = refusal(url, "api.example.com")

        assert "carries credentials" in message
        assert "secret" not in message

    @pytest.mark.parametrize("at", ["\\@", "%40", "@"])
    def test_an_at_sign_moves_no_host(self, at: str) -> None:
        assert not allowed(f"https://api.example.com{at}evil.example/", "api.example.com")


@given(st.text(max_size=40) | st.text(max_size=20).map("https://{}".format))
def test_no_url_breaks_it(url: str) -> None:
    error = refused(url, "api.example.com", "*.example.org")

    assert error is None or error.failure_class is FailureClass.PERMANENT


@given(st.text(alphabet="abc.:/@\\#?%[]0123456789-\t", max_size=30))
def test_whatever_is_allowed_is_called_on_the_named_host(rest: str) -> None:
    url = f"https://{rest}api.example.com{rest[::-1]}"

    if allowed(url, "api.example.com"):
        assert AllowedHosts.of(["api.example.com"]).check(url) == "api.example.com"
        assert "@" not in rest or rest.partition("@")[0] == ""
