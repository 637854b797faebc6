"""What `contrib/demo` shows: scans do not find the bridge, a client gets in, a replay and a revoked line do not.

Everything happens in network namespaces of its own and is gone afterwards. Exit status 0 means that all of it held.
"""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.capture import Capture, Control, Packet
from tests.support.netns import Host
from tests.support.packets import probe, replay
from tests.support.tornet import PAGE, Tor, TorFailed, TorNetwork

TORKNOCK = Path(sys.executable).with_name("torknock")
PORT, BESIDE = 443, 444
SCANS = ("-sS", "-sF", "-sN", "-sX", "-sA")
SERVER = (
    f"ServerTransportPlugin torknock exec {TORKNOCK} server --helper {{directory}}/gate.sock\n"
    f"ServerTransportListenAddr torknock 0.0.0.0:{PORT}\n"
)
"""The claim on the port is made in a directory of this program's, so that nothing is left in /run."""
CLIENT = f"ClientTransportPlugin torknock exec {TORKNOCK} client\n"


class Failed(Exception):
    """Something that was to be shown did not hold."""


def say(text: str) -> None:
    """A line for who is watching."""
    print(f"    {text}", flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """A step of the show: named when it begins, timed when it ends."""
    print(f"* {text}", flush=True)
    began = time.monotonic()
    yield
    say(f"held ({time.monotonic() - began:.1f} s)")


def must(held: bool, otherwise: str) -> None:
    """Go on if it *held*."""
    if not held:
        raise Failed(otherwise)


def scan(prober: Host, address: str, kind: str) -> dict[int, tuple[str | None, ...]]:
    """What nmap sees of `PORT` and `BESIDE`: state, reason and TTL of each."""
    family = ["-6"] if ":" in address else []
    command = ["nmap", *family, "-n", "-Pn", kind, f"-p{PORT},{BESIDE}", "--reason", "-oX", "-", address]
    report = ElementTree.fromstring(prober.run(command).stdout)  # noqa: S314  it comes from nmap
    return {
        int(port.attrib["portid"]): tuple(state.get(what) for what in ("state", "reason", "reason_ttl"))
        for port in report.iter("port")
        for state in port.iter("state")
    }


def show_scans(network: TorNetwork) -> None:
    """The protected port and the one beside it, to every scan, over IPv4 and IPv6."""
    prober, bridge = network.lab.host("probe"), network.lab.host("bridge")
    for address in (bridge.address, bridge.address6):
        for kind in SCANS:
            seen = scan(prober, address, kind)
            must(len(seen) == 2, f"nmap {kind} reported {len(seen)} ports")
            must(seen[PORT] == seen[BESIDE], f"nmap {kind}: port {PORT} is {seen[PORT]}, {BESIDE} is {seen[BESIDE]}")
            say(f"nmap {kind} {address}: {PORT} and {BESIDE} are both {seen[PORT][0]} ({seen[PORT][1]})")


def add_line(bridge: Tor, name: str) -> str:
    """A bridge line, from the command that an operator types."""
    told = bridge.host.run(
        [str(TORKNOCK), "line", "add", name, "--expires", "90d", "--keyring", str(keyring(bridge)),
         "--address", f"{bridge.host.address}:{PORT}", "--fingerprint", bridge.fingerprint]
    ).stdout  # fmt: skip
    must(told.startswith("Bridge torknock ") and told.count("\n") == 1, "torknock line add printed something else")
    return told.strip().removeprefix("Bridge ")


def keyring(bridge: Tor) -> Path:
    """Where the bridge's transport keeps its lines."""
    return bridge.data_directory / "pt_state" / "torknock"


def without_secrets(line: str) -> str:
    """A bridge line that may be shown."""
    return re.sub(r"(key|pin)=\S+", r"\1=...", line)


def only_tls(packets: Iterable[Packet], client: Host, bridge: Host) -> int:
    """The number of connections in *packets*: each is what TLS to `PORT` would be, and there is nothing else."""
    flows: dict[int, list[Packet]] = {}
    for packet in packets:
        ours = packet if packet.source == client.address else packet.reversed()
        must(
            (ours.source, ours.destination, ours.destination_port) == (client.address, bridge.address, PORT),
            f"a packet to port {packet.destination_port} passed between client and bridge",
        )
        flows.setdefault(ours.source_port, []).append(packet)
    for flow in flows.values():
        first = [packet.control & (Control.SYN | Control.ACK | Control.RST | Control.FIN) for packet in flow[:3]]
        must(first == [Control.SYN, Control.SYN | Control.ACK, Control.ACK], "a connection began in an odd way")
        must(not any(packet.payload for packet in flow[:3]), "data came before the handshake was done")
        for end in (client.address, bridge.address):
            said = b"".join(packet.payload for packet in flow if packet.source == end)
            must(not said or said[:2] == b"\x16\x03", "the first octets are not those of a TLS handshake")
    return len(flows)


def gets_nothing(network: TorNetwork, line: str, seconds: float) -> None:
    """A client that starts now with *line* gets nowhere."""
    client = network.client([line], CLIENT)
    try:
        client.wait_bootstrapped(15, timeout=seconds)
    except TorFailed:
        return
    finally:
        client.stop()
    raise Failed(f"a client with a revoked line came to {client.bootstrap_percent} %")


def show(network: TorNetwork, directory: str) -> None:
    """Step by step."""
    with step(f"a bridge behind torknock, on port {PORT}, and a line for alice"):
        bridge = network.bridge(SERVER.format(directory=directory)).wait_bootstrapped()
        bridge.wait_log(r"Registered server transport 'torknock'")
        alice = add_line(bridge, "alice")
        say(without_secrets(f"Bridge {alice}"))

    with step(f"scans from a third host see port {PORT} as the port beside it"):
        show_scans(network)

    client_host, prober = network.lab.host("client"), network.lab.host("probe")
    with Capture(network.lab.hub, client_host.hub_interface) as wire:
        with step("a client gets in with the bridge line alone"):
            client = network.client([alice], CLIENT).wait_bootstrapped()
            say(f"bootstrapped to {client.bootstrap_percent} %")

        with step("it fetches a page through three hops"):
            must(network.fetch("/", via=client) == PAGE, "another page came")
            circuits = network.circuits(client)
            must(bool(circuits), "there is no circuit of three hops")
            say(" -> ".join(circuits[-1]))

        with step("the wire showed TLS connections to the port, and nothing else"):
            passed = [seen for seen in wire.seen if not seen.stays]
            packets = [seen.packet for seen in passed if seen.packet is not None]
            must(len(packets) == len(passed), "a packet that is not TCP passed")
            say(f"{only_tls(packets, client_host, bridge.host)} of them, {len(packets)} packets")
            knock = next(packet for packet in packets if packet.opens)

    with step("the captured SYN, sent again by another host, finds a closed port"):
        closed = probe(prober, bridge.host.address, BESIDE, options=knock.options)
        must(closed is not None and bool(closed.control & Control.RST), f"port {BESIDE} is not closed")
        must(replay(prober, knock) == closed, "the replayed SYN was answered otherwise than one to the port beside it")
        say("RST, the same as from the port beside it")

    with step("the line is revoked: alice is out, bob's line still opens"):
        bob = add_line(bridge, "bob")
        client.stop()
        bridge.host.run([str(TORKNOCK), "line", "revoke", "alice", "--keyring", str(keyring(bridge))])
        time.sleep(2)
        gets_nothing(network, alice, 12)
        say("alice's client gets no further than the closed port")
        network.client([bob], CLIENT).wait_bootstrapped().stop()

    with step("the bridge ends and leaves nothing"):
        bridge.stop()
        deadline = time.monotonic() + 5
        while (left := bridge.host.run(["nft", "list", "ruleset"]).stdout) and time.monotonic() < deadline:
            time.sleep(0.1)
        must(left == "", "the bridge left nftables rules behind")


def main() -> int:
    """0 if all of it held."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was made is taken away
    try:
        print("* a private Tor network: three authorities, five relays, a web server, a router", flush=True)
        with tempfile.TemporaryDirectory(prefix="torknock-") as directory, TorNetwork(progress=say) as network:
            show(network, directory)
    except (Failed, TorFailed) as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    print(f"All of it held, in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
