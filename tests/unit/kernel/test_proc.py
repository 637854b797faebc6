"""Tests of torknock.kernel.proc: listening sockets, with a /proc of their own."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from tests.support.own_tor import TORKNOCK, free_port
from torknock.kernel import proc
from torknock.kernel.proc import (
    Listening,
    answers,
    booted_at,
    command_line,
    confinement,
    is_served,
    listening,
    may_open,
    may_open_files,
    process,
    processes_of,
    same_network,
    service_here,
    sockets_of,
    started_at,
)

ANY = "0.0.0.0"  # noqa: S104  looked up
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTEN, ESTABLISHED = "0A", "01"


def row(address: str, port: int, state: str = LISTEN) -> str:
    """A row of /proc/net/tcp or tcp6, as this machine writes it."""
    octets = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = memoryview(octets).cast("I")
    here = "".join(f"{word:08X}" for word in words)
    return f"   0: {here}:{port:04X} {'0' * len(here)}:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 4711 1\n"


class ProcessTests(SynchronousTestCase):
    """When a process began, and its words."""

    def test_this_process_began_after_the_boot(self) -> None:
        """It began after the boot."""
        began = started_at(os.getpid())
        assert began is not None
        self.assertLess(booted_at() + began / os.sysconf("SC_CLK_TCK"), time.time() + 1)
        self.assertEqual(command_line(os.getpid())[-1], os.fsencode(sys.orig_argv[-1]))

    def test_a_process_that_has_ended(self) -> None:
        """Also before its parent has taken note of it."""
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        self.assertIsNone(started_at(child))
        os.waitpid(child, 0)
        self.assertIsNone(started_at(child))
        self.assertEqual(command_line(child), [])

    def test_what_is_told_of_this_process(self) -> None:
        """Whose it is, its words, its sockets, its namespace, how many files it may have."""
        here = process(os.getpid())
        self.assertEqual((here.parent, here.uid), (os.getppid(), os.geteuid()))
        self.assertLessEqual({os.getegid(), *os.getgroups()}, here.groups)
        self.assertIn(here, [each for each in processes_of(os.geteuid()) if each.pid == here.pid])
        self.assertNotIn(here.pid, [each.pid for each in processes_of(os.geteuid() + 1)])
        self.assertEqual(may_open_files(here.pid), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self.assertTrue(same_network(here.pid))
        self.assertNotIn(confinement(here.pid), ("unconfined", "kernel"))
        self.assertEqual(confinement(2**22 + 1), "")
        with socket.socket() as opened:
            self.assertIn(os.fstat(opened.fileno()).st_ino, sockets_of(here.pid))

    def test_a_process_that_tells_no_limit(self) -> None:
        """It is an error."""
        root = Path(self.mktemp()).absolute()
        (root / "7").mkdir(parents=True)
        (root / "7" / "limits").write_text("Max processes 1 1 processes\n")
        self.patch(proc, "_PROC", root)
        self.assertRaises(ValueError, may_open_files, 7)

    def test_a_program_of_ours_is_found_by_its_verb(self) -> None:
        """By root: what is in its memory is private, and so are its namespaces to other users."""
        command = [str(TORKNOCK), "reflect", "--listen", f"127.0.0.1:{free_port()}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            self.addCleanup(running.kill)
            assert running.stdout is not None
            self.assertIn("reflecting on", running.stdout.readline())
            found = service_here("reflect")
            running.kill()
        self.assertEqual(found is not None, os.geteuid() == 0)
        self.assertTrue(found is None or "reflect" in found.words)
        self.assertIsNone(service_here("no-such-verb"))

    def test_who_may_open_a_socket(self) -> None:
        """Root; else its owner, its group or the others, each by the rights that are theirs."""
        path = f"{self.mktemp()}-socket"
        with socket.socket(socket.AF_UNIX) as listens:
            self.assertIsInstance(answers(path), FileNotFoundError)
            listens.bind(path)
            self.assertIsInstance(answers(path), ConnectionRefusedError)
            listens.listen()
            self.assertIsNone(answers(path))
        found = os.stat(path)
        owner, member, other = (
            replace(process(os.getpid()), uid=uid, groups=frozenset({gid}))
            for uid, gid in ((found.st_uid or 1, 4711), (4711, found.st_gid), (4711, 4712))
        )
        self.assertTrue(may_open(path, replace(owner, uid=0)))
        for mode, expected in (
            (0o200, [True, False, False]),
            (0o020, [False, True, False]),
            (0o002, [False, False, True]),
        ):
            os.chmod(path, mode)
            asked = [may_open(path, each) for each in (owner, member, other)]
            self.assertEqual(asked[1:], expected[1:])
            self.assertTrue(asked[0] == expected[0] or found.st_uid == 0)


class ListeningTests(SynchronousTestCase):
    """`listening` and `is_served`."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        (self.root / "self/net").mkdir(parents=True)
        self.patch(proc, "_PROC", self.root)

    def write(self, name: str, *rows: str) -> None:
        (self.root / "self/net" / name).write_text(HEAD + "".join(rows))

    def test_both_tables_are_read(self) -> None:
        """Sockets that do not listen are left out; an IPv4 address within IPv6 is one of IPv4."""
        self.write("tcp", row("192.0.2.7", 443), row("192.0.2.7", 444, ESTABLISHED))
        self.write("tcp6", row("2001:db8::7", 80), row("::ffff:198.51.100.1", 81))
        self.assertEqual(
            [(str(each.address), each.port, each.inode) for each in listening()],
            [("192.0.2.7", 443, 4711), ("2001:db8::7", 80, 4711), ("198.51.100.1", 81, 4711)],
        )

    def test_a_kernel_without_ipv6(self) -> None:
        """It has no such table, which is no error; a table of IPv4 it must have."""
        self.write("tcp", row("192.0.2.7", 443))
        self.assertTrue(is_served("192.0.2.7", 443))
        (self.root / "self/net/tcp").unlink()
        self.assertRaises(FileNotFoundError, is_served, "192.0.2.7", 443)

    def test_which_listener_serves_which_address(self) -> None:
        """One at every address of IPv6 serves IPv4 too; one at every address of IPv4 serves that alone."""
        for listens, serves in (
            ("192.0.2.7", {"192.0.2.7", ANY, "::"}),
            (ANY, {"192.0.2.7", "192.0.2.8", ANY, "::"}),
            ("::", {"192.0.2.7", "192.0.2.8", ANY, "::", "2001:db8::7"}),
            ("2001:db8::7", {"2001:db8::7", ANY, "::"}),
        ):  # fmt: skip
            self.write("tcp6", *([row(listens, 443)] if ":" in listens else []))
            self.write("tcp", *([row(listens, 443)] if ":" not in listens else []))
            asked = ("192.0.2.7", "192.0.2.8", ANY, "::", "2001:db8::7")
            self.assertEqual({host for host in asked if is_served(host, 443)}, serves, listens)
            self.assertFalse(any(is_served(host, 444) for host in asked))

    def test_this_machines_own(self) -> None:
        """A socket that listens here is found."""
        with mock.patch.object(proc, "_PROC", Path("/proc")), socket.create_server(("127.0.0.1", 0)) as served:
            host, port = served.getsockname()
            self.assertTrue(is_served(host, port))
            self.assertTrue(any((str(each.address), each.port) == (host, port) for each in listening()))

    def test_an_address_of_loopback_is_not_public(self) -> None:
        """Any other is."""
        self.write("tcp", row("127.0.0.1", 1), row("192.0.2.7", 2))
        self.assertEqual([each.public for each in listening() if isinstance(each, Listening)], [False, True])
