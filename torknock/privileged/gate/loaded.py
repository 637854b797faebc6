"""The rules of a door as they were loaded: whether another program has changed nftables since.

nftables' generation number is raised by every change, whichever program makes it. While it is the one of the last step,
nothing is compared. What may never happen: a step that another program's change came before or between leaves the
generation known, so that this change is not looked at.
"""

from __future__ import annotations

from twisted.internet.threads import deferToThreadPool

from torknock.interfaces import GateFailed
from torknock.kernel.nftables_state import ruleset_generation
from torknock.privileged.gate.kernel import IKernel
from torknock.privileged.gate.translation import taken
from torknock.privileged.gate.xtables import loaded_rules
from torknock.protocol.door import PREFIX, Door, Posture
from torknock.service.posture_table import FAMILY, posture_table


class LoadedRules:
    """The tables of *door*, which are asked about port and address in the IP *versions*."""

    def __init__(self, kernel: IKernel, door: Door, versions: tuple[int, ...]) -> None:
        self._kernel, self._door, self._versions = kernel, door, versions
        self._text = ""
        """The tables as they were listed after they were loaded."""
        self._generation: int | None = None
        """The generation that the last step of ours has made; None if the tables are to be compared."""
        self._looked: tuple[int | None, str] = None, ""
        """The generation in which `taken` was asked last, and the rule that it named."""

    async def run(self, commands: str) -> None:
        """Have nft run *commands*. Raises `GateFailed`."""
        before = self.generation()
        await nft(self._kernel, ["-f", "-"], commands.encode("ascii"))
        after = self.generation()
        ours_alone = after == before + 1 and self._generation in (before, None)
        self._generation = after if ours_alone else None

    def forget(self) -> None:
        """Take what was changed so far for replaced by the next step."""
        self._generation = None

    async def note(self) -> None:
        """Take the tables as they are for what was loaded."""
        self._text = await self._listed()

    def generation(self) -> int:
        """nftables' generation. Raises `GateFailed`."""
        try:
            return ruleset_generation(self._kernel.connect)
        except OSError as error:
            reason = error.strerror or error
            raise GateFailed(f"nftables cannot be asked: {reason}", "use a kernel with nf_tables") from error

    def is_known(self, generation: int) -> bool:
        """Whether no other program has changed anything before *generation*."""
        return generation == self._generation

    def compared(self, generation: int) -> None:
        """All is as it should be in *generation*."""
        self._generation = generation

    async def unchanged(self) -> bool:
        """Whether the tables are what was loaded, but for their elements. Raises `GateFailed`."""
        return await self._listed() == self._text

    async def fail_if_taken(self) -> None:
        """Fail while address translation takes the port elsewhere: strangers, and clients with their tokens."""
        generation = self.generation()
        if generation != self._looked[0]:
            own = None if self._door.everywhere else self._door.host
            asked = self._door.port, self._versions, own, self._kernel.output
            pool = self._kernel.reactor.getThreadPool()
            rule = await deferToThreadPool(self._kernel.reactor, pool, taken, *asked)
            self._looked = generation, rule
        if rule := self._looked[1]:
            raise GateFailed(
                f"address translation takes port {self._door.port} to another service",
                f"remove the rule, or hide another port: {rule}",
            )

    async def _listed(self) -> str:
        """The tables of this door, without elements."""
        listed = await _list(self._kernel, self._door.table)
        if self._door.posture is Posture.FILTERED:
            listed += await _list(self._kernel, posture_table(self._door))
        return listed


async def loaded_tables(kernel: IKernel) -> str:
    """Every table of ours in this network namespace as nft prints it, without elements; "" if there is none.

    Rules of iptables that go with them follow, each as the command that would make it.
    """
    tables = (await nft(kernel, ["list", "tables", FAMILY])).split("\n")
    ours = [table.removeprefix("table ") for table in tables if f" {PREFIX}" in table]
    listed = "".join([await _list(kernel, table.split()[1]) for table in ours])
    return listed + (await loaded_rules(kernel) if "meta mark set" in listed else "")


async def nft(kernel: IKernel, arguments: list[str], stdin: bytes = b"") -> str:
    """What `nft` writes. Raises `GateFailed`."""
    return await kernel.run("nft", arguments, stdin)


async def _list(kernel: IKernel, table: str) -> str:
    return await nft(kernel, ["--stateless", "--terse", "list", "table", FAMILY, table])
