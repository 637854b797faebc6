"""`pluggable.environment`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pluggable.environment import ClientEnvironment, Proxy, ServerEnvironment, parse_proxy, read_environment
from pluggable.errors import EnvironmentFault, NotManaged, ProxyError, StartError, VersionFault

COMMON = {
    "TOR_PT_MANAGED_TRANSPORT_VER": "1",
    "TOR_PT_STATE_LOCATION": "/var/lib/tor/pt_state/",
    "TOR_PT_EXIT_ON_STDIN_CLOSE": "1",
}
CLIENT = COMMON | {"TOR_PT_CLIENT_TRANSPORTS": "rot,other"}
SERVER = COMMON | {
    "TOR_PT_SERVER_TRANSPORTS": "rot,other",
    "TOR_PT_SERVER_BINDADDR": "rot-127.0.0.1:7777,other-[::]:0",
    "TOR_PT_ORPORT": "127.0.0.1:45002",
    "TOR_PT_EXTENDED_SERVER_PORT": "127.0.0.1:45003",
    "TOR_PT_AUTH_COOKIE_FILE": "/var/lib/tor/extended_orport_auth_cookie",
}
NAMES = sorted(
    {*CLIENT, *SERVER, "TOR_PT_PROXY", "TOR_PT_SERVER_TRANSPORT_OPTIONS"}
    | {"TOR_PT_OUTBOUND_BIND_ADDRESS_V4", "TOR_PT_OUTBOUND_BIND_ADDRESS_V6"}
)

GOOD = sorted({*CLIENT.values(), *SERVER.values()})
ANYWHERE = "0.0.0.0"  # noqa: S104  it is parsed, not listened on


def client(**changed: str) -> ClientEnvironment:
    """What is read of a client's environment with some `TOR_PT_` variables *changed*."""
    environment = read_environment(CLIENT | {f"TOR_PT_{name}": value for name, value in changed.items()})
    assert isinstance(environment, ClientEnvironment)
    return environment


def server(**changed: str) -> ServerEnvironment:
    """What is read of a server's environment with some `TOR_PT_` variables *changed*."""
    environment = read_environment(SERVER | {f"TOR_PT_{name}": value for name, value in changed.items()})
    assert isinstance(environment, ServerEnvironment)
    return environment


class CommonTests(SynchronousTestCase):
    """What clients and servers share."""

    def test_all_that_tor_sets_for_a_client_is_read(self) -> None:
        """Everything that tor sets."""
        expected = ClientEnvironment(Path("/var/lib/tor/pt_state"), True, ("rot", "other"))
        self.assertEqual(client(), expected)

    def test_all_that_tor_sets_for_a_server_is_read(self) -> None:
        """Everything that tor sets."""
        environment = server()
        self.assertEqual(environment.bind_addresses, {"rot": ("127.0.0.1", 7777), "other": ("::", 0)})
        self.assertEqual(environment.or_port, ("127.0.0.1", 45002))
        self.assertEqual(environment.extended_or_port, ("127.0.0.1", 45003))
        self.assertEqual(environment.auth_cookie_file, Path("/var/lib/tor/extended_orport_auth_cookie"))

    def test_a_person_is_told_from_tor(self) -> None:
        """No variable of tor's, or only empty ones."""
        self.assertRaises(NotManaged, read_environment, {"HOME": "/root"})
        self.assertRaises(NotManaged, read_environment, dict.fromkeys(CLIENT, ""))

    def test_an_item_of_the_versions_must_be_ours(self) -> None:
        """`1a` is not `1`, and more may be offered."""
        for versions in ("1a", "2", "11", " 1", "2,1a", ","):
            self.assertRaises(VersionFault, client, MANAGED_TRANSPORT_VER=versions)
        client(MANAGED_TRANSPORT_VER="2,1,a")

    def test_a_missing_variable_is_named_in_the_error(self) -> None:
        """tor's operator reads it."""
        for name in ("TOR_PT_MANAGED_TRANSPORT_VER", "TOR_PT_STATE_LOCATION"):
            for environ in (CLIENT | {name: ""}, {key: value for key, value in CLIENT.items() if key != name}):
                with self.assertRaises(EnvironmentFault) as caught:
                    read_environment(environ)
                self.assertEqual(str(caught.exception), f"no {name} environment variable")

    def test_an_environment_for_both_sides_or_for_none_is_refused(self) -> None:
        """Both, or neither: tor does not know what it wants."""
        self.assertRaises(EnvironmentFault, read_environment, CLIENT | SERVER)
        self.assertRaises(EnvironmentFault, read_environment, COMMON)

    def test_a_state_location_that_is_not_absolute_is_refused(self) -> None:
        """The working directory is nobody's."""
        self.assertRaises(EnvironmentFault, client, STATE_LOCATION="pt_state")

    def test_only_1_asks_to_exit_on_the_end_of_stdin(self) -> None:
        """pt-spec §3.2.1."""
        for text in ("", "0", "true", "11", " 1"):
            self.assertFalse(client(EXIT_ON_STDIN_CLOSE=text).exit_on_stdin_close)

    def test_a_name_that_comes_twice_is_one(self) -> None:
        """No transport is announced twice."""
        self.assertEqual(client(CLIENT_TRANSPORTS="a,b,a").transports, ("a", "b"))

    def test_the_bind_addresses_are_of_their_families(self) -> None:
        """IPv4 bare, IPv6 in brackets."""
        environment = client(OUTBOUND_BIND_ADDRESS_V4="203.0.113.4", OUTBOUND_BIND_ADDRESS_V6="[2001:db8::4]")
        self.assertEqual((environment.outbound_bind_v4, environment.outbound_bind_v6), ("203.0.113.4", "2001:db8::4"))
        for bad in ("[203.0.113.4]", "2001:db8::4", "example.org", "203.0.113.4:1", "203.0.113"):
            self.assertRaises(EnvironmentFault, client, OUTBOUND_BIND_ADDRESS_V4=bad)
        for bad in ("203.0.113.4", "2001:db8::4", "[example.org]", "[2001:db8::4]:1", "[fe80::1%eth0]", "[]"):
            self.assertRaises(EnvironmentFault, server, OUTBOUND_BIND_ADDRESS_V6=bad)

    def test_loopback_is_dialled_without_a_bind_address(self) -> None:
        """The bind addresses are for what leaves the host."""
        environment = server(OUTBOUND_BIND_ADDRESS_V4="203.0.113.4", OUTBOUND_BIND_ADDRESS_V6="[2001:db8::4]")
        self.assertEqual(environment.outbound_bind("198.51.100.1"), "203.0.113.4")
        self.assertEqual(environment.outbound_bind("2001:db8:1::1"), "2001:db8::4")
        self.assertIsNone(environment.outbound_bind("127.0.0.1"))
        self.assertIsNone(environment.outbound_bind("::1"))

    @given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(GOOD) | st.text()))
    def test_any_environment_is_read_or_refused(self, environ: dict[str, str]) -> None:
        """Whatever the variables hold, an environment comes back or a `StartError`."""
        with contextlib.suppress(StartError):
            read_environment(environ)
        with contextlib.suppress(StartError):
            read_environment(SERVER | environ | {"TOR_PT_CLIENT_TRANSPORTS": ""})
        with contextlib.suppress(StartError):
            read_environment(CLIENT | environ | {"TOR_PT_SERVER_TRANSPORTS": ""})


class ServerTests(SynchronousTestCase):
    """What only servers are told."""

    def test_a_missing_bind_address_is_any(self) -> None:
        """By the specification tor may leave it out."""
        self.assertEqual(server(SERVER_BINDADDR="").bind_addresses, {"rot": (ANYWHERE, 0), "other": (ANYWHERE, 0)})
        addresses = server(SERVER_BINDADDR="rot-[::1]:1").bind_addresses
        self.assertEqual(addresses, {"rot": ("::1", 1), "other": (ANYWHERE, 0)})

    def test_what_is_no_bind_address_is_refused(self) -> None:
        """No name, no IP literal, no port, a name twice."""
        for bad in (
            "rot", "-127.0.0.1:1", "rot-localhost:1", "rot-127.0.0.1", "rot-127.0.0.1:", "rot-127.0.0.1:65536",
            "rot-::1:1", "rot-[127.0.0.1]:1",
            "rot-127.0.0.1:1,rot-127.0.0.1:2", "rot-127.0.0.1:1,", "rot-127.0.0.1:\N{ARABIC-INDIC DIGIT ONE}",
            "rot-127.0.0.1:+1", "rot-127.0.0.1:" + "0" * 5000,
        ):  # fmt: skip
            with self.subTest(bad):
                self.assertRaises(EnvironmentFault, server, SERVER_BINDADDR=bad)

    def test_options_are_told_apart_by_transport(self) -> None:
        """Those of transports that are not asked for are nobody's."""
        environment = server(SERVER_TRANSPORT_OPTIONS=r"rot:a=x\:y;third:b=1;rot:c=2")
        self.assertEqual(environment.options, {"rot": (("a", "x:y"), ("c", "2"))})
        self.assertRaises(EnvironmentFault, server, SERVER_TRANSPORT_OPTIONS="rot")

    def test_one_way_to_tor_is_needed(self) -> None:
        """Either ORPort will do; the extended one needs its cookie, which need not exist yet."""
        self.assertIsNone(server(EXTENDED_SERVER_PORT="", AUTH_COOKIE_FILE="").extended_or_port)
        self.assertIsNone(server(ORPORT="").or_port)
        self.assertRaises(EnvironmentFault, server, AUTH_COOKIE_FILE="")
        self.assertRaises(EnvironmentFault, server, AUTH_COOKIE_FILE="cookie")
        self.assertRaises(EnvironmentFault, server, ORPORT="", EXTENDED_SERVER_PORT="")
        for bad in ("127.0.0.1:0", "localhost:1", "127.0.0.1", "::1:1"):
            self.assertRaises(EnvironmentFault, server, ORPORT=bad)
            self.assertRaises(EnvironmentFault, server, EXTENDED_SERVER_PORT=bad)


class ProxyTests(SynchronousTestCase):
    """`parse_proxy`."""

    def test_what_tor_writes_is_read(self) -> None:
        """tor does not percent-encode: the last at sign ends the credentials, the first colon the user."""
        for url, proxy in {
            "socks5://127.0.0.1:9999": Proxy("socks5", "127.0.0.1", 9999),
            "socks4a://127.0.0.1:9999": Proxy("socks4a", "127.0.0.1", 9999),
            "http://u:p@127.0.0.1:9999": Proxy("http", "127.0.0.1", 9999, "u", "p"),
            "socks5://[::1]:9999": Proxy("socks5", "::1", 9999),
            "socks5://us@er:x:p:a/ss@127.0.0.1:9999": Proxy("socks5", "127.0.0.1", 9999, "us@er", "x:p:a/ss"),
            "socks5://a%40:100%@127.0.0.1:1": Proxy("socks5", "127.0.0.1", 1, "a@", "100%"),
        }.items():
            self.assertEqual(parse_proxy(url), proxy)

    def test_what_cannot_be_a_proxy_is_refused(self) -> None:
        """pt-spec §3.2.2."""
        for url in (
            "", "127.0.0.1:1", "socks5:127.0.0.1:1", "https://127.0.0.1:1", "socks5://localhost:1", "socks5://127.0.0.1",
            "socks5://127.0.0.1:0", "socks5://u@127.0.0.1:1", "socks5://:p@127.0.0.1:1", "socks5://u:@127.0.0.1:1",
            f"socks5://u:{'p' * 256}@127.0.0.1:1", "socks4a://u:p@127.0.0.1:1", "http://u@127.0.0.1:1", "socks5://::1:1",
        ):  # fmt: skip
            with self.subTest(url):
                self.assertRaises(ProxyError, parse_proxy, url)

    def test_a_bad_proxy_is_found_last(self) -> None:
        """tor wants to hear `VERSION` before `PROXY-ERROR`, so everything else must be well."""
        self.assertRaises(ProxyError, client, PROXY="ftp://127.0.0.1:1")
        self.assertRaises(EnvironmentFault, client, PROXY="ftp://127.0.0.1:1", STATE_LOCATION="")

    def test_credentials_of_a_proxy_are_not_shown(self) -> None:
        """What is logged of a proxy."""
        self.assertNotIn("secret", repr(parse_proxy("socks5://secret:secret@127.0.0.1:1")))

    @given(st.text() | st.text().map("socks5://u:p@{}".format))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        """Whatever tor says."""
        with contextlib.suppress(ProxyError):
            parse_proxy(text)
