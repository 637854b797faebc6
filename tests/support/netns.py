"""Hosts with real Linux kernels' network stacks, on one machine: network namespaces around a router.

    ┌─────────┐ eth0      to-bridge ┌───────┐ to-client      eth0 ┌─────────┐
    │ bridge  ├─────────────────────┤       ├─────────────────────┤ client  │
    └─────────┘                     │  hub  │                     └─────────┘
    ┌─────────┐ eth0         to-net │       │ to-probe       eth0 ┌─────────┐
    │ net     ├─────────────────────┤       ├─────────────────────┤ probe   │
    └─────────┘                     └───────┘                     └─────────┘

Host number n has 198.18.n.2/24 and 2001:db8:n::2/64, the hub's end of the wire .1 and ::1 (RFC 2544, RFC 3849:
nobody's addresses, and not private ones, so that tor takes them as they are). The hub also sends 198.18.n.128/25 and
2001:db8:n:1::/64 to the host, which does not hold them and does not forward: what comes for `Host.silent` is seen by
captures and answered by nobody, as a prober with a raw socket needs it.

Needs root. Everything made here is gone after `close()`, which a context manager calls also after an error.

    with Lab() as lab:
        bridge, client = lab.host("bridge"), lab.host("client")
        with bridge.enter():
            listener = socket.create_server((bridge.address, 443))
        client.run(["nc", "-z", bridge.address, "443"])
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)
_labs = itertools.count()


class CommandFailed(Exception):
    """A command that a test cannot do without did not succeed; the text has the command and what it said."""


def _run(arguments: Sequence[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(arguments, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise CommandFailed(f"{' '.join(arguments)}: exit status {done.returncode}: {said}")
    return done


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


class Namespace:
    """A network namespace called *name*, with loopback up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._children: list[subprocess.Popen[Any]] = []
        self._closed = False
        _run(["ip", "netns", "add", name])
        try:
            self.ip("link set lo up")
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        """The file that stands for the namespace."""
        return Path("/run/netns") / self.name

    def ip(self, *commands: str) -> None:
        """Run commands of the program ip, such as ``"link set eth0 up"``, in one go. Raises `CommandFailed`."""
        _run(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(commands) + "\n")

    def run(self, arguments: Sequence[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program here to its end; what it wrote is text. Raises `CommandFailed` if it did not return 0."""
        return _run(["ip", "netns", "exec", self.name, *arguments], stdin)

    def popen(self, arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program here; its pid is the program's own. `close` ends it if it still runs."""
        child = subprocess.Popen(["ip", "netns", "exec", self.name, *arguments], **options)
        self._children.append(child)
        return child

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """The calling thread is in the namespace until the block ends.

        What is made in the block (sockets, threads, processes) stays in the namespace. Also a decorator.
        Never await in the block: the whole reactor thread would be here.
        """
        with open("/proc/thread-self/ns/net") as before, self.path.open() as here:
            _setns(here.fileno())
            try:
                yield
            finally:
                _setns(before.fileno())

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What *function* returns when it is called in the namespace."""
        with self.enter():
            return function(*args, **kwargs)

    def sysctl(self, name: str, value: int | str) -> None:
        """Set ``net.*`` for this namespace, such as ``sysctl("net.ipv4.tcp_syncookies", 2)``."""
        with self.enter():
            (Path("/proc/sys") / name.replace(".", "/")).write_text(f"{value}\n")

    def pids(self) -> list[int]:
        """The processes that live here, whoever started them, but not this one."""
        found = _run(["ip", "netns", "pids", self.name]).stdout.split()
        return [int(pid) for pid in found if int(pid) != os.getpid()]

    def close(self) -> None:
        """End every process that lives here and remove the namespace. May be called again."""
        if self._closed:
            return
        self._closed = True
        end(self._children)
        for pid in self.pids():  # children of children: a transport whose tor is gone
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _run(["ip", "netns", "delete", self.name])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def end(children: Sequence[subprocess.Popen[Any]], patience: float = 10.0) -> None:
    """Ask all *children* to terminate, then wait; kill what is there after *patience* seconds."""
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Host(Namespace):
    """A host on a wire of its own to the hub, as number *number* (1..254)."""

    interface = "eth0"

    def __init__(self, name: str, hub: Namespace, port: str, number: int, offloads: bool) -> None:
        self.number = number
        self.hub_interface = port
        """The hub's end of the wire, such as ``to-bridge``: what passes there is what a censor sees."""
        self.address, self.gateway = f"198.18.{number}.2", f"198.18.{number}.1"
        self.address6, self.gateway6 = f"2001:db8:{number:x}::2", f"2001:db8:{number:x}::1"
        self.silent, self.silent6 = f"198.18.{number}.129", f"2001:db8:{number:x}:1::1"
        """Addresses whose packets come to this host, and that it does not hold: nothing answers them."""
        self.mac, self.gateway_mac = f"02:00:00:00:{number:02x}:02", f"02:00:00:00:{number:02x}:01"
        super().__init__(name)
        try:
            self._wire(hub, port, offloads)
        except BaseException:
            self.close()
            raise

    def _wire(self, hub: Namespace, port: str, offloads: bool) -> None:
        far = f"address {self.mac} netns {self.name}"
        hub.ip(f"link add {port} address {self.gateway_mac} type veth peer name {self.interface} {far}")
        self.sysctl("net.ipv4.tcp_congestion_control", "reno")  # bbr's pacing costs a third of the throughput here
        for end_, name, address, address6 in (
            (hub, port, self.gateway, self.gateway6),
            (self, self.interface, self.address, self.address6),
        ):
            end_.sysctl(f"net.ipv6.conf.{name}.accept_ra", 0)
            end_.ip(
                f"address add {address}/24 dev {name}",
                f"address add {address6}/64 dev {name} nodad",
                f"link set {name} up",
            )
            if not offloads:
                off = [word for feature in ("tx", "rx", "sg", "tso", "gso", "gro") for word in (feature, "off")]
                end_.run(["ethtool", "-K", name, *off])
        self.ip(
            f"route add default via {self.gateway}",
            f"route add ::/0 via {self.gateway6}",
            f"neigh replace {self.gateway} lladdr {self.gateway_mac} dev {self.interface} nud permanent",
            f"neigh replace {self.gateway6} lladdr {self.gateway_mac} dev {self.interface} nud permanent",
        )
        hub.ip(  # known neighbours: no ARP in a capture, nothing lost while it is asked
            f"neigh replace {self.address} lladdr {self.mac} dev {port} nud permanent",
            f"neigh replace {self.address6} lladdr {self.mac} dev {port} nud permanent",
            f"route add 198.18.{self.number}.128/25 via {self.address}",
            f"route add 2001:db8:{self.number:x}:1::/64 via {self.address6}",
        )


class Lab:
    """A router namespace, `hub`, and hosts around it, made when first asked for.

    With *offloads* False every host's wire carries packets as a real one would: at most one MTU long, checksums
    written out (slower; for tests that look at packets).
    """

    def __init__(self, offloads: bool = True) -> None:
        self._prefix = f"tk{os.getpid()}" + (f".{number}" if (number := next(_labs)) else "")
        self._offloads = offloads
        self._hosts: dict[str, Host] = {}
        self.hub = Namespace(f"{self._prefix}-hub")
        try:
            for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
                self.hub.sysctl(name, 1)
        except BaseException:
            self.close()
            raise

    def host(self, name: str) -> Host:
        """The host called *name* (at most 12 characters), wired to the hub."""
        if name not in self._hosts:
            number = len(self._hosts) + 1
            self._hosts[name] = Host(f"{self._prefix}-{name}", self.hub, f"to-{name}", number, self._offloads)
        return self._hosts[name]

    def close(self) -> None:
        """Remove every host and the hub. May be called again."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.hub.close)
            for host in self._hosts.values():
                stack.callback(host.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
