"""Tests of torknock.operate.setup.planned_changes and torrc_options: what a set-up would change, as it is shown."""

from __future__ import annotations

import os
import pwd
import socket
from ipaddress import IPv4Address
from pathlib import Path

from attrs import evolve

from tests.support.host_tree import HostTreeCase
from tests.support.own_tor import TORKNOCK, free_port
from torknock.operate.setup import planned_changes, site_directory, torrc_options
from torknock.operate.setup.changes import CannotSetUp, Change
from torknock.operate.setup.place import Place
from torknock.operate.setup.service_changes import Process, Unit
from torknock.operate.setup.this_host import Host
from torknock.operate.setup.torrc_options import (
    HEAD,
    BridgeSettings,
    bridge_options,
    client_options,
    configured_port,
    configured_site,
    known_options,
    port_and_posture,
)
from torknock.operate.sides import Side
from torknock.protocol.bridge_line import BridgeLine, Line, write_bridge_line
from torknock.protocol.door import Door, Posture
from torknock.service.access import EVERYWHERE
from torknock.tor.inspect import TorFacts

ADDRESS = IPv4Address("192.0.2.7")
LINE = Line(bytes(range(32)), bytes(range(32, 64)))
FINGERPRINT = "4352E58420E68F5E40BF7C74FADDCCD9D1349413"
ACCOUNT = "torknock-user-of-no-host"


def facts(*or_listeners: str, version: tuple[int, ...] = (0, 4, 9, 11), **options: str) -> TorFacts:
    """A tor with these *options*."""
    return TorFacts(version, 1, {name: (value,) for name, value in options.items()}, or_listeners, 100, True, None)


def settings(port: int = 443, posture: Posture = Posture.CLOSED) -> BridgeSettings:
    """A bridge at a documentation address."""
    return BridgeSettings(ADDRESS, Door(EVERYWHERE, port, posture), "first", (ADDRESS, port))


class PlanCase(HostTreeCase):
    """A host whose torrc has nothing of torknock, and which lacks the services' user."""

    def setUp(self) -> None:
        super().setUp()
        self.torrc.parent.mkdir()
        self.torrc.write_text("Log notice syslog\n")
        self.patch(planned_changes, "_SERVICE_USER", ACCOUNT)

    def at(self, systemd: bool = True, apparmor: bool = False) -> Host:
        """The host, with or without systemd and AppArmor."""
        return Host(Place(self.torrc, ""), "debian-tor", TORKNOCK, systemd, apparmor)

    def described(self, changes: list[Change]) -> list[str]:
        """The first line of each of *changes*, with the host's directory taken out."""
        return [change.describe().partition("\n")[0].replace(str(self.host), "") for change in changes]


class BridgePlanTests(PlanCase):
    """A hidden bridge."""

    def test_with_systemd_the_units_and_torrc_are_written(self) -> None:
        """The access list is there before the service starts, and torrc is last."""
        changes = planned_changes.plan(
            Side.BRIDGE, bridge_options(facts(), settings(), "", self.at()), self.at(), self.group
        )
        self.assertEqual(self.described(changes), [
            f"make the system user and group {ACCOUNT}",
            "write to /etc/gate.toml, and the rules of filtered doors to /etc/filtered.nft:",
            "write /units/torknock-gate.service:",
            "write /units/torknock-gate.socket:",
            "enable torknock-gate.socket, and start it with what is installed now",
            "write /torrc.d/torknock.conf:",
            "add to /tor/torrc:",
        ])  # fmt: skip

    def test_a_filtered_door_is_silent_from_boot_on(self) -> None:
        """By a unit of its own; without systemd there is none."""
        options = bridge_options(facts(), settings(posture=Posture.FILTERED), "", self.at())
        described = self.described(planned_changes.plan(Side.BRIDGE, options, self.at(), 0))
        self.assertIn("write /units/torknock-filtered.service:", described)
        without = self.described(planned_changes.plan(Side.BRIDGE, options, self.at(systemd=False), 0))
        self.assertFalse([line for line in without if "filtered.service" in line])

    def test_without_systemd_the_service_is_a_process_with_one_capability(self) -> None:
        """As the services' user; its command is shown, for whoever starts it at boot."""
        options = bridge_options(facts(), settings(), "", self.at())
        planned = planned_changes.plan(Side.BRIDGE, options, self.at(systemd=False), 7)
        [process] = [each for each in planned if isinstance(each, Process)]
        told = process.describe()
        self.assertIn("start, as there is no systemd here", told)
        self.assertIn(f"--reuid={ACCOUNT}", told)
        self.assertIn("--bounding-set=-all,+net_admin", told)
        self.assertTrue(told.endswith(f"{TORKNOCK} gate --socket /run/torknock/gate.sock"))
        self.assertEqual((process.group, process.key), (7, ("/run/torknock/gate.sock",)))

    def test_apparmor_gets_the_rules_of_the_installed_program(self) -> None:
        """Wherever that is."""
        changes = planned_changes.plan(Side.BRIDGE, "BridgeRelay 1\n", self.at(apparmor=True), 0)
        [rules] = [it.describe() for it in changes if "apparmor.d" in it.key[0]]
        self.assertIn(str(TORKNOCK.resolve()), rules)

    def test_a_bridge_of_a_torrc_by_hand_gets_its_door_alone(self) -> None:
        """torrc stays as it is."""
        by_hand = facts(
            ServerTransportListenAddr="torknock 0.0.0.0:8443", ServerTransportOptions="torknock posture=decoy"
        )
        changes = planned_changes.plan_by_hand(by_hand, self.at())
        self.assertEqual([type(change).__name__ for change in changes], ["User", "ListedDoor"])
        self.assertIn('posture = "decoy"', changes[1].describe())

    def test_what_is_done_already_is_not_planned_again(self) -> None:
        """A unit is started again if its file is another one."""
        host = self.at()
        text = bridge_options(facts(), settings(), "", host)
        for change in planned_changes.plan(Side.BRIDGE, text, host, self.group):
            if "units" in change.key[0] or "torrc" in change.key[0]:
                change.inspect([])
                path = Path(change.key[0])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(getattr(change, "text", ""))
        self.patch(Unit, "is_needed", lambda _self: False)
        left = self.described(planned_changes.plan(Side.BRIDGE, text, host, self.group))
        self.assertFalse([line for line in left if "units" in line or "torrc" in line or "enable" in line], left)
        (self.host / "units" / "torknock-gate.service").write_text("[Unit]\n")
        left = self.described(planned_changes.plan(Side.BRIDGE, text, host, self.group))
        self.assertIn("enable torknock-gate.socket, and start it with what is installed now", left)


class ClientPlanTests(PlanCase):
    """A client."""

    def options(self, known: str = "") -> str:
        """torrc of a client of one bridge."""
        return client_options(facts(), BridgeLine(ADDRESS, 443, FINGERPRINT, LINE), known, self.at())

    def test_torrc_is_first_and_the_service_follows(self) -> None:
        """If it is interrupted, tor connects to the bridge alone; the line's secret is not shown."""
        changes = planned_changes.plan(Side.CLIENT, self.options(), self.at(systemd=False), self.group)
        self.assertEqual(self.described(changes)[:2], ["write /torrc.d/torknock.conf:", "add to /tor/torrc:"])
        self.assertTrue(changes[-1].describe().endswith(f"--user debian-tor --group {ACCOUNT}"))
        self.assertNotIn(write_bridge_line(BridgeLine(ADDRESS, 443, FINGERPRINT, LINE)), changes[0].describe())
        self.assertIn("key=...", changes[0].describe())

    def test_a_second_line_stays_beside_the_first(self) -> None:
        """Of another bridge; a line of the same bridge is replaced."""
        other = write_bridge_line(BridgeLine(IPv4Address("192.0.2.8"), 443, "B" * 40, LINE))
        both = self.options(known=HEAD + other + "\n")
        self.assertIn(other, both.splitlines())
        self.assertEqual(both.count("Bridge torknock"), 2)
        self.assertEqual(self.options(known=HEAD + both).count("Bridge torknock"), 2)

    def test_a_bridge_or_a_relay_is_no_client(self) -> None:
        """Its tor could not use the line."""
        line = BridgeLine(ADDRESS, 443, FINGERPRINT, LINE)
        for tor, told in (
            (facts(BridgeRelay="1"), "this tor is a bridge"),
            (facts(ORPort="9001"), "this tor is a relay"),
        ):
            with self.assertRaisesRegex(CannotSetUp, told):
                client_options(tor, line, "", self.at())

    def test_a_user_gets_the_service_and_the_group(self) -> None:
        """Their tor's torrc stays theirs; an unknown user is refused."""
        name = pwd.getpwuid(os.geteuid()).pw_name
        told = self.described(planned_changes.plan_for_user(name, self.at()))
        self.assertIn(f"add {name} to the group {ACCOUNT}", told)
        self.assertFalse([line for line in told if "torrc" in line])
        with self.assertRaisesRegex(CannotSetUp, f"there is no user {ACCOUNT}"):
            planned_changes.plan_for_user(ACCOUNT, self.at())


class OptionsTests(PlanCase):
    """torknock's lines of torrc."""

    def test_an_exposed_or_port_is_refused(self) -> None:
        """A scan would find the bridge by it."""
        exposed = facts("0.0.0.0:9001", ORPort="9001")
        with self.assertRaisesRegex(CannotSetUp, "listens on 0.0.0.0:9001.*; take ORPort 9001 out of"):
            bridge_options(exposed, settings(), "", self.at())

    def test_or_ports_on_loopback_stay(self) -> None:
        """None is added to them; those of a former set-up are written again."""
        for where in ("127.0.0.1:9001", "[::1]:9001", "unix:/run/tor/or"):
            self.assertNotIn("ORPort 127", bridge_options(facts(where, ExtORPort="auto"), settings(), "", self.at()))
        known = "ORPort 127.0.0.1:auto\nExtORPort auto\n"
        again = bridge_options(facts("127.0.0.1:9001", ExtORPort="auto"), settings(), known, self.at())
        for line in known.splitlines():
            self.assertIn(line, again.splitlines())

    def test_an_old_tor_is_refused(self) -> None:
        """With the version that is needed."""
        with self.assertRaisesRegex(CannotSetUp, "this tor is 0.3.5.8; torknock needs 0.4.5"):
            bridge_options(facts(version=(0, 3, 5, 8)), settings(), "", self.at())

    def test_only_a_text_of_torknock_is_known(self) -> None:
        """Not what somebody else has put there."""
        self.snippet.parent.mkdir()
        for text, known in ((HEAD + "BridgeRelay 1\n", True), ("BridgeRelay 1\n", False)):
            self.snippet.write_text(text)
            self.assertEqual(known_options(self.snippet), text if known else "")

    def test_a_site_gets_a_directory_now_and_at_each_boot(self) -> None:
        """It is named in torrc, is tor's user's, and goes with the set-up, unless a web server uses it."""
        there, user = site_directory.site_directory(""), pwd.getpwuid(os.geteuid()).pw_name
        wanted = evolve(settings(), site=there)
        options = bridge_options(facts(), wanted, "", self.at())
        self.assertIn(f"posture=closed site={there}\n", options)
        self.assertEqual(configured_site(facts(ServerTransportOptions=f"torknock posture=closed site={there}")), there)
        self.assertIsNone(configured_site(facts()))
        described = self.described(planned_changes.plan(Side.BRIDGE, options, self.at(), self.group))
        self.assertIn("write /tmpfiles.d/torknock-site.conf:", described)
        self.assertIn("make the directory /run/torknock-site, owned by debian-tor", described)
        there.parent.mkdir()
        change = site_directory.SiteDirectory(str(there), user)
        self.assertTrue(change.is_needed())
        change.inspect([])
        change.make()
        self.assertFalse(change.is_needed())
        (there / "site.sock").touch()
        self.assertIn("the web server uses", change.undo())
        (there / "site.sock").unlink()
        self.assertEqual((change.undo(), there.exists()), ("", False))

    def test_a_host_without_a_web_server(self) -> None:
        """It can have no site, and nothing is changed."""
        site_directory.check_web_server()
        self.patch(site_directory, "PROGRAMS", str(self.host))
        self.assertIn("needs nginx", str(self.assertRaises(CannotSetUp, site_directory.check_web_server)))

    def test_an_nginx_without_tls_1_3_can_be_no_site(self) -> None:
        """Version 1.13 is the first that has it; what does not say its version is tried."""
        for said in ("nginx version: nginx/1.13.0\n", "nginx version: openresty/1.21.4.1\n", "", "nginx/1.2"):
            site_directory.check_version(said)
        for said in ("nginx version: nginx/1.12.2\nbuilt by gcc", "nginx version: nginx/0.8.54 (Ubuntu)\n"):
            with self.subTest(said=said), self.assertRaisesRegex(CannotSetUp, "needs nginx 1.13 or newer"):
                site_directory.check_version(said)

    def test_a_directory_of_the_operators_own_is_left_alone(self) -> None:
        """It is in torrc, and the set-up does not make it."""
        options = bridge_options(facts(), evolve(settings(), site=Path("/srv/site")), "", self.at())
        self.assertEqual(site_directory.site_changes(options, "", "debian-tor"), [])

    def test_port_and_posture_are_those_of_the_operator_then_of_torrc(self) -> None:
        """Else 443, and what the host's unused ports do."""
        self.patch(torrc_options, "taken", lambda *_: "")  # looking at the host's rules needs root
        port = free_port()
        torrc = facts(
            ServerTransportListenAddr=f"torknock 0.0.0.0:{port}", ServerTransportOptions="torknock posture=filtered"
        )
        self.assertEqual(configured_port(torrc), port)
        self.assertEqual(port_and_posture(torrc, None, None, lambda: "closed"), (port, "filtered"))
        other = free_port()
        self.assertEqual(port_and_posture(torrc, other, "decoy", lambda: "closed"), (other, "decoy"))
        self.assertEqual(port_and_posture(facts(), other, None, lambda: "closed"), (other, "closed"))
        self.assertIsNone(configured_port(facts()))

    def test_a_port_of_another_program_is_refused_unless_it_is_the_decoy(self) -> None:
        """And one that address translation takes elsewhere always is."""
        self.patch(torrc_options, "taken", lambda *_: "")
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port: int = other.getsockname()[1]
            with self.assertRaisesRegex(CannotSetUp, f"another program listens on port {port}"):
                port_and_posture(facts(), port, "closed", lambda: "closed")
            self.assertEqual(port_and_posture(facts(), port, "decoy", lambda: "closed"), (port, "decoy"))
            self.patch(torrc_options, "taken", lambda *_: "tcp dport 443 dnat to 192.0.2.9")
            with self.assertRaisesRegex(CannotSetUp, "address translation takes .*dnat to 192.0.2.9"):
                port_and_posture(facts(), port, "decoy", lambda: "closed")
