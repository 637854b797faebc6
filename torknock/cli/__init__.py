"""The command `torknock`: one file a verb, imported when it is called, so that `--help` is instant."""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import IO, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from torknock.errors import TorknockError
from torknock.kernel.private_memory import keep_memory_private


class Verb(NamedTuple):
    """Where a verb is, and what it is for."""

    module: str
    attribute: str
    help: str


VERBS = {
    "setup": Verb("torknock.cli.setup", "setup", "Set up a hidden bridge on this host, or a client of one."),
    "doctor": Verb("torknock.cli.doctor", "doctor", "Check every condition of a bridge or a client."),
    "status": Verb("torknock.cli.status", "status", "Show what the running bridge does."),
    "line": Verb("torknock.cli.line", "line", "Issue bridge lines, list them, revoke them."),
    "site": Verb("torknock.cli.site", "site", "Print the lines that make nginx the web site of a bridge."),
    "check": Verb("torknock.cli.check", "check", "From outside: is the bridge hidden, and does a line open it?"),
    "server": Verb("torknock.cli.server", "server", "The bridge's transport; tor starts it."),
    "client": Verb("torknock.cli.client", "client", "The client's transport; tor starts it."),
    "gate": Verb("torknock.cli.gate", "gate", "The privileged service that guards ports for bridges."),
    "dial": Verb("torknock.cli.dial", "dial", "The privileged service that knocks for clients."),
    "rules": Verb("torknock.cli.rules", "rules", "Print the nftables ruleset that a bridge has loaded."),
    "isn": Verb("torknock.cli.isn", "isn", "The ISNs that open a bridge, and the line that an ISN belongs to."),
    "reflect": Verb("torknock.cli.reflect", "reflect", "An open port that tells a client how its SYN arrived."),
}


class Refusal(click.ClickException):
    """An error for the operator, as one line on stderr; the exit status is 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it; characters that could break the line, as in a file name, are replaced."""
        line = "".join(character if character.isprintable() else "?" for character in self.message)
        click.echo(f"torknock: {line}", file=file, err=True)


class Verbs(click.Group):
    """The verbs of `VERBS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The one that is called *cmd_name*, imported now."""
        if cmd_name not in VERBS:
            return None
        verb = VERBS[cmd_name]
        command: click.Command = getattr(import_module(verb.module), verb.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in VERBS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Their names, without importing one."""
        verbs = [CompletionItem(name, help=verb.help) for name, verb in VERBS.items() if name.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; print a `TorknockError` as one line."""
        try:
            return super().invoke(ctx)
        except TorknockError as error:
            raise Refusal(str(error)) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None


@click.group(
    cls=Verbs,
    name="torknock",
    epilog="Example: torknock setup bridge",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="torknock", message="torknock %(version)s")
def torknock() -> None:
    """A Tor bridge that no scan finds."""


def main() -> None:
    """Run the command, with the arguments of this process. No verb's memory, which may hold secrets, can be read."""
    keep_memory_private()
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of another encoding is no reason to fail
    torknock(prog_name="torknock")
