"""Tests of `torknock.operate.doctor.examine` with a real tor: which conditions are looked at, and what is found."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.support.own_tor import TORKNOCK, OwnTor, free_port
from torknock.kernel.places import keyring_within
from torknock.keyring.lines import POSTURE, Keyring
from torknock.operate.doctor.examine import RoleUnknown, Target, examine
from torknock.operate.finding import Finding, State
from torknock.operate.sides import Side
from torknock.protocol.bridge_line import BridgeLine, Line, Scheme, parse_address, write_bridge_line

SELF = pwd.getpwuid(os.geteuid()).pw_name
LINE = write_bridge_line(BridgeLine(*parse_address("192.0.2.7:443"), "A" * 40, Line(bytes(32), bytes(32))))


class ExamineCase(TestCase):
    """A directory for a tor, and the doctor."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.port = free_port()

    def tor(self, *lines: str) -> OwnTor:
        """One that runs, with *lines* in its torrc."""
        tor = OwnTor(self.directory / "tor", *lines)
        self.addCleanup(tor.stop)
        tor.start()
        return tor

    async def examined(self, control: str, side: Side | None = None, user: str | None = None) -> dict[str, Finding]:
        """What the doctor finds, by its name."""
        target = Target(self.directory / "no-keyring", side, control, None, user)
        steady: Any = reactor
        found = await examine(steady, target, time.time)
        self.assertTrue(all(bool(each.remedy) == (each.state is not State.OK) for each in found), found)
        return {each.name: each for each in found}

    async def examined_with_keyring(self, control: str) -> dict[str, Finding]:
        """As `examined`, at a moment when the bridge itself does not hold its keyring."""
        while "lines" not in (found := await self.examined(control)):
            await deferLater(reactor, 0.05)
        return found

    async def said(self, tor: OwnTor, words: str) -> None:
        """Come back once *tor* has logged *words*."""
        while not tor.log.exists() or words not in tor.log.read_text():
            await deferLater(reactor, 0.05)


class BridgeTests(ExamineCase):
    """A bridge without a capability, which filters at its own port."""

    BRIDGE = ("BridgeRelay 1", "ORPort 127.0.0.1:auto", "ExtORPort auto", "PublishServerDescriptor 0",
              "Address 127.0.0.1", f"ServerTransportPlugin torknock exec {TORKNOCK} server --helper /nowhere/gate.sock",
              "ServerTransportOptions torknock posture=filtered")  # fmt: skip

    async def test_a_bridge_that_runs_is_found_to_and_what_it_lacks_is_named(self) -> None:
        """Its transport, keyring and lines are ok; a tor without a network is not in the Tor network."""
        tor = self.tor(*self.BRIDGE, f"ServerTransportListenAddr torknock 0.0.0.0:{self.port}")
        await self.said(tor, "Registered server transport 'torknock'")
        found = await self.examined_with_keyring(tor.control)
        self.assertEqual(found["lines"].why, "none of 0 lines is live")
        with Keyring.open(keyring_within(tor.data), create=False) as keyring:
            keyring.add("alice", expires=None, now=1)
        found = await self.examined_with_keyring(tor.control)
        for name in (
            "tor", "privilege", "version", "keyring", "lines", "BridgeRelay", "AssumeReachable", "ExtORPort",
            "PublishServerDescriptor", "process", "registered", "clients", "tor's log", "TCP_SAVE_SYN",
        ):  # fmt: skip
            self.assertIs(found[name].state, State.OK, found[name])
        self.assertIn("torknock filters at its own port", found["privilege"].why)
        self.assertIs(found["bootstrap"].state, State.NOT_OK)
        self.assertNotIn("set-up", found)

    async def test_a_bridge_whose_transport_fails_is_not_ok(self) -> None:
        """With what tor logged of it; which port it would guard is not known."""
        tor = self.tor(*self.BRIDGE[:-1], "ServerTransportOptions torknock posture=open")
        await self.said(tor, "posture")
        found = await self.examined(tor.control)
        self.assertIs(found["tor's log"].state, State.NOT_OK)
        self.assertIn("posture", found["tor's log"].why)
        self.assertIs(found["port"].state, State.UNKNOWN)
        self.assertIs(found["registered"].state, State.NOT_OK)

    async def test_knock_lines_of_a_bridge_that_cannot_judge_them_are_reported(self) -> None:
        """Judging needs a capability, or the service."""
        tor = self.tor(*self.BRIDGE, f"ServerTransportListenAddr torknock 0.0.0.0:{self.port}")
        await self.said(tor, "Registered server transport 'torknock'")
        with Keyring.open(keyring_within(tor.data), create=False) as keyring:
            keyring.set_setting(POSTURE, "filtered")
            keyring.add("carol", scheme=Scheme.KNOCK, secret=b"secret", expires=None, now=1)
        found = await self.examined(tor.control)
        self.assertIs(found["knock lines"].state, State.NOT_OK)
        self.assertIs(found["timestamps"].state, State.OK)

    async def test_a_tor_without_torknock_is_to_be_set_up(self) -> None:
        """An ORPort that a scan finds is reported all the same."""
        tor = self.tor("BridgeRelay 1", f"ORPort 0.0.0.0:{self.port}", "Address 127.0.0.1")
        found = await self.examined(tor.control, Side.BRIDGE)
        self.assertEqual(found["set-up"].remedy, "as root: torknock setup bridge")
        self.assertIs(found["ORPort"].state, State.NOT_OK)


class ClientTests(ExamineCase):
    """A client."""

    async def test_a_client_without_the_capability_is_found_and_told_what_to_do(self) -> None:
        """Its line can be read; no service knocks for it."""
        plugin = f"ClientTransportPlugin torknock exec {TORKNOCK} client --helper /nowhere/dial.sock"
        tor = self.tor("UseBridges 1", plugin, LINE)
        await self.said(tor, "CAP_NET_ADMIN")
        found = await self.examined(tor.control)
        for name in ("UseBridges", "bridge lines", "proxy", "TCP_REPAIR"):
            self.assertIs(found[name].state, State.OK, found[name])
        self.assertIs(found["tor's log"].state, State.NOT_OK)
        self.assertNotIn("192.0.2.7", str(found))

    async def test_a_tor_without_torknock_is_no_client_yet(self) -> None:
        """Nor does it show which of the two it is to be."""
        tor = self.tor()
        found = await self.examined(tor.control, Side.CLIENT)
        self.assertEqual(found["set-up"].remedy, "as root: torknock setup client - < line.txt")
        await self.assertFailure(Deferred.fromCoroutine(self.examined(tor.control)), RoleUnknown)

    async def test_a_tor_of_the_users_own_is_found_among_the_processes(self) -> None:
        """Its control port is not asked."""
        self.tor()
        found = await self.examined("/nowhere", user=SELF)
        self.assertEqual(found["tor"].why, f"{SELF}'s tor runs; its control port is asked too if --control names it")
        self.assertIn("clock", found)
        found = await self.examined("/nowhere", user="torknock-user-of-no-host")
        self.assertEqual(found["tor"].remedy, "name another with --user")


class NoTorTests(ExamineCase):
    """Without a tor that answers."""

    async def test_the_rest_is_examined_where_a_keyring_shows_a_bridge(self) -> None:
        """What tor would say is left out."""
        (self.directory / "no-keyring").mkdir()
        found = await self.examined(str(self.directory / "nowhere"))
        self.assertIs(found["tor"].state, State.NOT_OK)
        self.assertEqual(found["keyring"].why, "there is no keyring")
        self.assertNotIn("bootstrap", found)

    async def test_a_client_is_examined_without_it(self) -> None:
        """Its privilege, its clock, and whether an ISN can be chosen."""
        found = await self.examined(str(self.directory / "nowhere"), Side.CLIENT)
        self.assertLessEqual({"tor", "privilege", "TCP_REPAIR", "clock", "AppArmor", "version"}, set(found))

    async def test_a_role_that_nothing_shows_is_asked_for(self) -> None:
        """Neither a tor nor a keyring."""
        asked = Deferred.fromCoroutine(self.examined(str(self.directory / "nowhere")))
        error = await self.assertFailure(asked, RoleUnknown)
        self.assertIn("torknock doctor bridge", str(error))
