"""The rule that queues SYNs on kernels whose nftables cannot: iptables' target NFQUEUE, in the table mangle."""

from __future__ import annotations

import contextlib

from torknock.interfaces import GateFailed
from torknock.privileged.gate.kernel import IKernel
from torknock.protocol.door import PREFIX, Door
from torknock.service import ruleset

_PROGRAMS = {4: "iptables-nft", 6: "ip6tables-nft"}


async def loaded_rules(kernel: IKernel) -> str:
    """The rules of ours that are there, one a line, each as the command that would make it; "" if there is none."""
    found = ""
    for program in _PROGRAMS.values():
        with contextlib.suppress(GateFailed):  # no iptables, no rule
            saved = await kernel.run(f"{program}-save", ["-t", "mangle"])
            ours = [rule for rule in saved.splitlines() if f"--comment {PREFIX}" in rule]
            found += "".join(f"{program} -t mangle {rule}\n" for rule in ours)
    return found


class XTables:
    """The rule of *door*, once in each of the IP *versions*; through nftables, so that a change shows there."""

    def __init__(self, kernel: IKernel, door: Door, versions: tuple[int, ...]) -> None:
        self._kernel, self._door, self._versions = kernel, door, versions

    async def place(self) -> None:
        """Have the rule, whether it was there or not. Raises `GateFailed`."""
        for version in self._versions:
            if not await self._is_there(version):
                await self._restore(version, "-A")

    async def intact(self) -> bool:
        """Whether the rule is there."""
        return all([await self._is_there(version) for version in self._versions])

    async def remove(self) -> None:
        """Have no such rule, whether it was there or not. Raises `GateFailed`."""
        for version in self._versions:
            if await self._is_there(version):
                await self._restore(version, "-D")

    async def _is_there(self, version: int) -> bool:
        rule = ["-t", "mangle", "-C", *ruleset.xtables(self._door).split()]
        try:
            await self._kernel.run(_PROGRAMS[version], rule)
        except GateFailed:
            return False
        return True

    async def _restore(self, version: int, what: str) -> None:
        text = f"*mangle\n{what} {ruleset.xtables(self._door)}\nCOMMIT\n".encode("ascii")
        await self._kernel.run(f"{_PROGRAMS[version]}-restore", ["--noflush"], text)
