"""A bridge line as something to scan or to print. What comes out holds a secret.

A QR code holds the line without the word `Bridge`: that is what the boxes of Tor Browser and of apps take, and torrc
takes it behind that word.
"""

from __future__ import annotations

import html
import io
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import segno

from torknock.errors import TorknockError


class CannotDraw(TorknockError):
    """A file was not written."""


def qr_text(bridge_line: str) -> str:
    """The QR code of *bridge_line* for a terminal: half blocks, dark on light, with a quiet zone around it.

    It says its colours itself, so that a terminal's own do not matter.
    """
    rows = [list(row) for row in _code(bridge_line).matrix_iter(border=4)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        drawn = "".join(_HALVES[bool(above), bool(below)] for above, below in zip(upper, lower, strict=True))
        lines.append(f"\x1b[38;5;16;48;5;231m{drawn}\x1b[0m")
    return "\n".join(lines)


_HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
"""Dark is drawn, black on white."""


def write_png(path: Path, bridge_line: str) -> None:
    """The QR code as a picture at *path*, 0600. Raises `CannotDraw`; a file that is there stays."""
    drawn = io.BytesIO()
    _code(bridge_line).save(drawn, kind="png", scale=8, border=4)
    _write(path, drawn.getvalue())


def write_svg(path: Path, bridge_line: str) -> None:
    """The QR code as a drawing at *path*, 0600. Raises `CannotDraw`; a file that is there stays."""
    drawn = io.BytesIO()
    _code(bridge_line).save(drawn, kind="svg", scale=8, border=4, dark="black", light="white")
    _write(path, drawn.getvalue())


def write_card(path: Path, bridge_line: str, expires: int | None) -> None:
    """A page to print at *path*, 0600, for whoever gets the line. Raises `CannotDraw`; a file that is there stays."""
    drawn = io.BytesIO()
    _code(bridge_line).save(drawn, kind="svg", xmldecl=False, svgns=False, scale=5, border=4, omitsize=True)
    until = "" if expires is None else f" It opens until {datetime.fromtimestamp(expires, UTC):%Y-%m-%d}."
    page = _PAGE.format(qr=drawn.getvalue().decode("utf-8"), line=html.escape(_bare(bridge_line)), until=until)
    _write(path, page.encode("utf-8"))


def _code(bridge_line: str) -> segno.QRCode:
    return segno.make_qr(_bare(bridge_line), error="m")


def _bare(bridge_line: str) -> str:
    return bridge_line.removeprefix("Bridge ")


def _write(path: Path, octets: bytes) -> None:
    """Put *octets* at *path*, whole or not at all, for nobody else to read."""
    draft = ""
    try:
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".torknock-")  # 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
        os.link(draft, path)  # which does not replace what is there
    except FileExistsError:
        raise CannotDraw(f"{path} is there already; name another file") from None
    except OSError as error:
        raise CannotDraw(f"{path} cannot be written: {error.strerror or type(error).__name__}") from error
    finally:
        if draft:
            os.unlink(draft)


_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>A bridge to Tor</title>
<style>
  body {{ font: 12pt/1.5 serif; max-width: 16cm; margin: 2cm auto; color: black; background: white }}
  svg {{ display: block; width: 9cm; height: 9cm; margin: 1cm auto }}
  code {{ display: block; border: 1px solid black; padding: 4mm; font: 9pt/1.4 monospace; overflow-wrap: anywhere }}
  @media print {{ body {{ margin: 0 auto }} }}
</style>
<h1>A bridge to Tor</h1>
<p>This is the way to a bridge into the Tor network that nobody finds who does not have it.
Where Tor asks for a bridge, scan the picture or copy the line below it; the program torknock must be installed there.
It is yours alone: do not pass it on, do not photograph it for others, and ask for another one if you lose it.{until}</p>
{qr}
<code>{line}</code>
</html>
"""
