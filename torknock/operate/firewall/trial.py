"""Sends SYNs to copies of a host's rules, each in a network namespace of its own, and tells what became of them.

A program: `python -m torknock.operate.firewall.trial`, as root and in a network namespace that is not the host's. It
reads a JSON object from stdin, `{"nft": TEXT, "saved": {PROGRAM: TEXT}, "devices": [NAME], "syns": [SYN]}`, where a
SYN is `{"interface", "source", "address", "port"}` and PROGRAM restores what iptables-save(8) wrote. It writes a list
with `{"fate": NAME, "doubts": [TEXT]}` for each SYN.

    stranger ── a raw Ethernet socket ── torknock-far ── veth ── the host's interface ── the rules ── a counter
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from torknock.kernel.blocking_program import ProgramFailed, output_of
from torknock.operate.firewall.doubts import MARK, counting, doubtful
from torknock.operate.firewall.fate import Fate

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_FAR = "torknock-far"
_HOST_MAC, _STRANGER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
"""The stranger's is not the one of `torknock-far`, which therefore hands no answer to the rules."""

_EVERYTHING, _IPV4, _IPV6 = 0x0003, 0x0800, 0x86DD  # linux/if_ether.h
_TRAILER = 0x88B5  # for experiments (IEEE 802)
_ANSWERS_WITHIN = 5.0
"""Seconds in which the kernel has to do with a frame; it needs microseconds."""

_WATCH = """
table inet torknock-trial {{
    chain translated {{
        type filter hook prerouting priority 2147483647
        ct status dnat counter comment "torknock-translated"
    }}
    chain arrived {{
        type filter hook input priority 2147483647
        {family} daddr {address} tcp dport {port} counter comment "torknock-arrived"
        tcp flags & (syn | ack) == syn counter comment "torknock-came"
    }}
}}
"""
"""Behind the last rule of the host's; other chains of the same priority, loaded later, come first."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A SYN, and the addresses that it has."""

    interface: str
    source: str
    address: str
    port: int

    @property
    def family(self) -> str:
        """As nftables calls it."""
        return "ip" if ip_address(self.address).version == 4 else "ip6"


@dataclass(slots=True)
class _Copy:
    """The rules in this network namespace."""

    doubts: dict[str, str] = field(default_factory=dict)
    """What is in doubt if the rule with this comment counts a packet."""
    saving: list[str] = field(default_factory=list)
    """The programs that tell what the rules of iptables have counted."""

    def load(self, trial: Trial, text: str, saved: Mapping[str, str]) -> None:
        watch = _WATCH.format(family=trial.family, address=trial.address, port=trial.port)
        _nft("-f", "-", stdin=watch + text)
        self._count_doubts()
        for number, (program, rules) in enumerate(saved.items()):
            counted = counting(rules, program.partition("tables")[0] + "tables")
            self.doubts |= {f"{MARK}{number}-{at}": doubt for at, doubt in enumerate(counted.doubts)}
            numbered = counted.text.replace(f"--comment {MARK}", f"--comment {MARK}{number}-")
            output_of(program, package="iptables", stdin=numbered)
            self.saving.append(program.replace("-restore", "-save"))

    def _count_doubts(self) -> None:
        """Put a rule that counts in front of each that is in doubt."""
        found = doubtful(json.loads(_nft("--json", "--terse", "list", "ruleset"))["nftables"])
        texts = _texts(_nft("--terse", "--handle", "list", "ruleset")) if found else {}
        for number, rule in enumerate(found):
            comment = f"{MARK}nft-{number}"
            where = f"rule {rule.handle} in chain {' '.join(rule.place)}"
            self.doubts[comment] = f"{where}: {texts.get((*rule.place, rule.handle), '')}"
            family, table, chain = rule.place
            of = {"family": family, "table": table, "chain": chain, "handle": rule.handle, "comment": comment}
            expression = [*rule.conditions, {"counter": None}]
            _nft("--json", "-f", "-", stdin=json.dumps({"nftables": [{"insert": {"rule": of | {"expr": expression}}}]}))

    def counted(self) -> set[str]:
        """The comments of the rules that have counted a packet."""
        found = set()
        for item in json.loads(_nft("--json", "--terse", "list", "ruleset"))["nftables"]:
            rule = item.get("rule", {})
            if any(it.get("counter", {}).get("packets") for it in rule.get("expr", ()) if _counts(it)):
                found.add(rule.get("comment", ""))
        for program in self.saving:
            found |= set(_COUNTED.findall(output_of(program, "--counters", package="iptables")))
        return found


_COUNTED = re.compile(rf'^\[[1-9]\d*:\d+\] -A .* --comment "?({MARK}[\d-]+)"?', re.MULTILINE)


def _counts(statement: dict[str, Any]) -> bool:
    return isinstance(statement.get("counter"), dict)


def tried(asked: Mapping[str, Any], trial: Trial) -> dict[str, Any]:
    """What becomes of one SYN, in a new network namespace. Raises `ProgramFailed`, and OSError."""
    _new_network()
    _make_interfaces(trial, asked["devices"])
    copy = _Copy()
    copy.load(trial, asked["nft"], asked["saved"])
    answers = _exchange(trial)
    counted = copy.counted()
    doubts = [copy.doubts[comment] for comment in sorted(counted & set(copy.doubts))]
    fate = _fate(counted, answers)
    if fate is Fate.PASSED and Fate.RESET not in answers:
        doubts.append("what this host answers, which its rules keep from leaving")
    return {"fate": fate.name, "doubts": doubts}


def _fate(counted: set[str], answers: set[Fate]) -> Fate:
    if "torknock-translated" in counted:
        return Fate.TAKEN
    if "torknock-arrived" in counted:
        return Fate.PASSED
    if "torknock-came" in counted:
        return Fate.TAKEN
    order = (Fate.ANSWERED, Fate.TAKEN, Fate.RESET, Fate.REJECTED)
    return next((fate for fate in order if fate in answers), Fate.DROPPED)


def _new_network() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _make_interfaces(trial: Trial, devices: list[str]) -> None:
    """The host's interface as one end of a wire, with its address, and those that rules name without any."""
    others = [name for name in devices if name not in ("lo", trial.interface)]
    everywhere, length, flags = ("0.0.0.0/0", 32, "") if trial.family == "ip" else ("::/0", 128, " nodad")
    commands = [
        "link set lo up",
        *(f"link add {name} type veth peer name torknock-{number}" for number, name in enumerate(others)),
        f"link add {trial.interface} address {_HOST_MAC.hex(':')} type veth peer name {_FAR}",
        f"link set {_FAR} up",
        f"link set {trial.interface} up",
        f"address add {trial.address}/{length} dev {trial.interface}{flags}",
        f"route add {everywhere} dev {trial.interface}",
        f"neigh replace {trial.source} lladdr {_STRANGER_MAC.hex(':')} dev {trial.interface} nud permanent",
    ]
    output_of("ip", "-batch", "-", package="iproute2", stdin="\n".join(commands) + "\n")


def _nft(*arguments: str, stdin: str = "") -> str:
    return output_of("nft", *arguments, package="nftables", stdin=stdin)


def _exchange(trial: Trial) -> set[Fate]:
    """Send the SYN, and say what came back.

    A frame of no protocol follows it, and another one follows the answers: each is handled by the kernel behind what
    was sent before, on the one processor that this process runs on. Raises TimeoutError.
    """
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    ethernet = struct.pack("!6s6sH", _HOST_MAC, _STRANGER_MAC, _IPV4 if trial.family == "ip" else _IPV6)
    trailer = struct.pack("!6s6sH46x", _HOST_MAC, _STRANGER_MAC, _TRAILER)
    answers: set[Fate] = set()
    with _wire(_FAR) as stranger, _wire(trial.interface) as host:
        stranger.send(ethernet + _datagram(trial))
        stranger.send(trailer)
        while not _is_trailer(host):
            pass
        host.send(struct.pack("!6s6sH46x", _STRANGER_MAC, _HOST_MAC, _TRAILER))
        while not _is_trailer(stranger, answers):
            pass
    return answers


def _wire(interface: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING))
    made.bind((interface, _EVERYTHING))
    made.settimeout(_ANSWERS_WITHIN)
    return made


def _is_trailer(wire: socket.socket, answers: set[Fate] | None = None) -> bool:
    """Whether the next frame that comes in is the one that follows; what it answers otherwise is added to *answers*."""
    frame, (_, protocol, kind, *_) = wire.recvfrom(65536)
    if kind == socket.PACKET_OUTGOING:
        return False
    if answers is not None and protocol in (_IPV4, _IPV6):
        answers |= _answers(frame[14:])
    return bool(protocol == _TRAILER)


def _answers(datagram: bytes) -> set[Fate]:
    version = datagram[0] >> 4
    start, protocol = ((datagram[0] & 0xF) * 4, datagram[9]) if version == 4 else (40, datagram[6])
    if protocol == socket.IPPROTO_TCP:
        flags = datagram[start + 13]
        return {Fate.RESET if flags & 0x04 else Fate.ANSWERED if flags & 0x12 == 0x12 else Fate.TAKEN}
    unreachable = (socket.IPPROTO_ICMP, 3) if version == 4 else (socket.IPPROTO_ICMPV6, 1)
    return {Fate.REJECTED} if (protocol, datagram[start]) == unreachable else set()


def _datagram(trial: Trial) -> bytes:
    """The SYN as Linux sends it."""
    source, dest = ip_address(trial.source).packed, ip_address(trial.address).packed
    options = bytes.fromhex("020405b4 0402 080a 00001000 00000000 01 030307")
    sport = 50_000 + trial.port % 10_000
    segment = struct.pack("!HHIIBBHHH", sport, trial.port, 0x1234567, 0, 10 << 4, 0x02, 64240, 0, 0) + options
    pseudo = source + dest + struct.pack("!II", len(segment), socket.IPPROTO_TCP)
    segment = segment[:16] + _checksum(pseudo + segment) + segment[18:]
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28, len(segment), socket.IPPROTO_TCP, 52) + source + dest + segment
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 7, 0x4000, 52, socket.IPPROTO_TCP, 0) + source + dest
    return head[:10] + _checksum(head) + head[12:] + segment


def _checksum(octets: bytes) -> bytes:
    """RFC 1071, of an even number of octets."""
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", total ^ 0xFFFF)


def _texts(listed: str) -> dict[tuple[str, str, str, int], str]:
    """The rules in what `nft --handle list ruleset` has *listed*, by family, table, chain and handle."""
    texts: dict[tuple[str, str, str, int], str] = {}
    table, chain = ("", ""), ""
    for line in listed.split("\n"):
        if found := re.match(r"table (\S+) (\S+) \{", line):
            table = (found[1], found[2])
        elif found := re.match(r"\tchain (\S+) \{", line):
            chain = found[1]
        elif found := re.match(r"\t\t(\S.*) # handle (\d+)$", line):
            texts[(*table, chain, int(found[2]))] = found[1]
    return texts


def main() -> None:
    """See the module."""
    asked = json.load(sys.stdin)
    results = []
    for syn in asked["syns"]:
        try:
            results.append(tried(asked, Trial(**syn)))
        except Exception as error:  # noqa: BLE001  what cannot be copied is not known to be let in
            why = error.what if isinstance(error, ProgramFailed) else f"{type(error).__name__}: {error}"
            results.append({"fate": Fate.UNKNOWN.name, "doubts": [f"the rules, which cannot be copied: {why}"]})
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
