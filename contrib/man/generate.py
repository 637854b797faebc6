"""Writes the man pages, and the shells' completion, out of the command itself: `python -m contrib.man.generate`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import get_completion_class
from click_man.man import ManPage

from torknock.cli import torknock

MAN = Path(__file__).parent / "man1"
PROJECT = MAN.parents[2] / "pyproject.toml"
COMPLETION = MAN.parents[1] / "completion"
TRANSCRIPTS = MAN.parent / "transcripts"
"""What the pages show: `tests/unit/test_transcripts.py` runs each."""

SHELLS = {"bash": "torknock.bash", "zsh": "_torknock", "fish": "torknock.fish"}


def man_pages() -> dict[str, str]:
    """The text of each page, by the name of its file."""
    return {f"{context.command_path.replace(' ', '-')}.1": _page(context) for context in _contexts()}


def completions() -> dict[str, str]:
    """The script for each shell, by the name of its file."""
    scripts = {}
    for shell, name in SHELLS.items():
        kind = get_completion_class(shell)
        assert kind is not None
        scripts[name] = kind(torknock, {}, "torknock", "_TORKNOCK_COMPLETE").source()
    # click's script for fish ends each description at its first comma
    scripts["torknock.fish"] = scripts["torknock.fish"].replace('string split ","', 'string split --max 1 ","')
    return scripts


def main() -> None:
    """Write all of them to their places."""
    for stale in MAN.glob("*.1"):
        stale.unlink()
    for directory, texts in ((MAN, man_pages()), (COMPLETION, completions())):
        for name, text in texts.items():
            (directory / name).write_text(text, "utf-8")


def _version() -> str:
    """The version of this tree, which an installed one may not have yet."""
    return str(tomllib.loads(PROJECT.read_text("utf-8"))["project"]["version"])


def _contexts(command: click.Command = torknock, above: click.Context | None = None) -> Iterator[click.Context]:
    context = click.Context(command, info_name=command.name, parent=above)
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _contexts(below, context)


def _page(context: click.Context) -> str:
    command = context.command
    page = ManPage(context.command_path)
    page.date, page.version = "", f"torknock {_version()}"
    page.short_help = _prose(command.help).partition("\n")[0].rstrip(".")
    page.synopsis = " ".join(command.collect_usage_pieces(context))
    page.description = _prose(command.help)
    records = [parameter.get_help_record(context) for parameter in command.params]
    page.options = [record for record in records if record is not None]
    text = str(page)
    if isinstance(command, click.Group):
        text += ".SH COMMANDS\n"
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            summary = _prose(below.help if below else "").partition("\n")[0]
            text += f".TP\n\\fB{context.command_path.replace(' ', '-')}-{name}\\fP(1)\n{summary}\n"
    if command.epilog:
        introduction, _, example = command.epilog.partition(":")
        text += f".SH {introduction.upper()}\n.nf\n{example.strip()}\n.fi\n"
    return text + _transcript(context)


def _transcript(context: click.Context) -> str:
    """The section with the transcript of the verb; "" if it has none."""
    path = TRANSCRIPTS / f"{context.command_path.replace(' ', '-')}.txt"
    if not path.exists():
        return ""
    shown = path.read_text("utf-8").replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    lines = "".join(f"\\&{line}\n" for line in shown.splitlines())
    told = "What varies is shown as \\&..., and an exit status other than 0 in brackets."
    return f".SH TRANSCRIPT\n{told}\n.PP\n.nf\n{lines}.fi\n"


def _prose(text: str | None) -> str:
    """Paragraphs of *text*, each one line, with an empty line between them."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", (text or "").strip()))


if __name__ == "__main__":
    main()
