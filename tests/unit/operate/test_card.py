"""Tests of torknock.operate.card: what another program reads is the line."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import click
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from torknock.operate.card import CannotDraw, qr_text, write_card, write_png, write_svg
from torknock.protocol.bridge_line import (
    BridgeLine,
    Channel,
    Line,
    Scheme,
    parse_address,
    parse_bridge_line,
    write_bridge_line,
)

FINGERPRINT = "4352E58420E68F5E40BF7C74FADDCCD9D1349413"
LINE = write_bridge_line(
    BridgeLine(*parse_address("192.0.2.7:443"), FINGERPRINT, Line(bytes(range(32)), bytes(range(32, 64))))
)
LONGEST = write_bridge_line(
    BridgeLine(
        *parse_address("[2001:db8:1111:2222:3333:4444:5555:6666]:65535"),
        FINGERPRINT,
        Line(bytes(range(32)), bytes(range(32, 64)), 1024, ".".join(["a" * 63] * 4)[:253], channel=Channel.RAW),
    )
)
SHORTEST = write_bridge_line(BridgeLine(*parse_address("192.0.2.7:1"), None, Line(b"x", None, scheme=Scheme.KNOCK)))

ROOT = Path(__file__).parents[3]
LIMITED = """
import resource, sys
from pathlib import Path
from torknock.operate.card import CannotDraw, write_card
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write_card(Path(sys.argv[1]), sys.argv[2], None)
except CannotDraw as error:
    print(error)
"""
"""A process that may write no file of more than 100 octets."""

EXPIRES = int(datetime(2027, 2, 21, 20, 8, tzinfo=UTC).timestamp())
VOID = {"meta"}

Matrix = list[list[bool]]


class CardCase(SynchronousTestCase):
    """A directory to draw in, and a reader of QR codes."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.path = self.directory / "drawn"

    def scanned(self, path: Path) -> str:
        """What zbar reads in the picture at *path*."""
        program = shutil.which("zbarimg")
        if program is None:
            raise SkipTest("needs zbarimg, of Debian's zbar-tools")
        done = subprocess.run([program, "--quiet", "--raw", path], capture_output=True, check=False)
        self.assertEqual(done.returncode, 0)
        return done.stdout.decode("ascii").removesuffix("\n")

    def scanned_modules(self, dark: Matrix) -> str:
        """What zbar reads in a picture of these modules."""
        rows = [bytes(0 if module else 255 for module in row for _ in range(4)) for row in dark for _ in range(4)]
        picture = self.directory / "modules.pgm"
        picture.write_bytes(b"P5 %d %d 255\n" % (len(rows[0]), len(rows)) + b"".join(rows))
        return self.scanned(picture)


def modules_of_text(text: str) -> Matrix:
    """The dark modules of a drawing in half blocks."""
    rows: Matrix = []
    for line in text.splitlines():
        rows.append([character in "▀█" for character in line])
        rows.append([character in "▄█" for character in line])
    return rows


def modules_of_svg(svg: str) -> Matrix:
    """The dark modules of a drawing whose dark modules are strokes one module high (SVG 1.1 §8.3)."""
    size = re.search(r'fill="(?:#fff|white)" d="M0 0h(\d+)v\1h-\1z"', svg)
    strokes = re.search(r'stroke="#000" d="([^"]+)"', svg)
    assert size is not None and strokes is not None
    dark = [[False] * int(size[1]) for _ in range(int(size[1]))]
    x, y = 0, 0.0
    for command, numbers in re.findall(r"([Mmh])([-0-9. ]+)", strokes[1]):
        if command == "h":
            for column in range(x, x + int(numbers)):
                dark[int(y)][column] = True
            x += int(numbers)
        else:
            right, down = numbers.split()
            x, y = (0, 0.0) if command == "M" else (x, y)
            x, y = x + int(right), y + float(down)
    return dark


class ScanTests(CardCase):
    """Each drawing says the line, without the word that only torrc has."""

    def test_a_code_in_a_terminal_is_read_by_a_scanner(self) -> None:
        """With its colours, which are the same in every terminal, and without them."""
        for line in (LINE, LONGEST, SHORTEST):
            drawn = qr_text(line, "utf-8")
            rows = drawn.split("\n")
            self.assertTrue(all(re.fullmatch(r"\x1b\[38;5;16;48;5;231m[ ▀▄█]+\x1b\[0m", row) for row in rows))
            modules = modules_of_text(click.unstyle(drawn))
            self.assertEqual(self.scanned_modules(modules), line.removeprefix("Bridge "))
            for edge in (modules[:4], modules[-4:], [row[:4] + row[-4:] for row in modules]):
                self.assertFalse(any(map(any, edge)))

    def test_in_a_terminal_without_half_blocks(self) -> None:
        """In ASCII, two columns a module; dark and light are colours, and black and blank without them."""
        for encoding in ("iso8859-1", "ascii", "koi8-u", "no-such-encoding"):
            drawn = qr_text(LINE, encoding)
            if encoding == "koi8-u":
                self.assertIn("▀", drawn)  # which KOI8 has
                continue
            self.assertTrue(drawn.isascii())
            modules = [[pair == "##" for pair in re.findall("##|  ", row)] for row in click.unstyle(drawn).split("\n")]
            self.assertEqual(len(modules), len(modules[0]))
            self.assertEqual(self.scanned_modules(modules), LINE.removeprefix("Bridge "))
            black = re.findall(r"\x1b\[38;5;16;48;5;16m##", drawn)
            self.assertEqual(len(black), sum(map(sum, modules)))

    def test_a_code_as_png_is_read_by_a_scanner(self) -> None:
        """As it is."""
        for line in (LINE, LONGEST, SHORTEST):
            path = self.directory / f"{len(line)}.png"
            write_png(path, line)
            self.assertEqual(self.scanned(path), line.removeprefix("Bridge "))

    def test_a_code_as_svg_is_read_by_a_scanner(self) -> None:
        """Drawn by a few lines of our own."""
        for line in (LINE, LONGEST, SHORTEST):
            path = self.directory / f"{len(line)}.svg"
            write_svg(path, line)
            self.assertEqual(self.scanned_modules(modules_of_svg(path.read_text())), line.removeprefix("Bridge "))

    def test_the_code_on_a_card_is_read_by_a_scanner(self) -> None:
        """The same drawing, within the page."""
        write_card(self.path, LINE, None)
        scanned = self.scanned_modules(modules_of_svg(self.path.read_text()))
        self.assertEqual(parse_bridge_line(scanned), parse_bridge_line(LINE))

    @settings(max_examples=5)
    @given(st.binary(min_size=32, max_size=32), st.integers(1, 1024))
    def test_a_code_holds_any_secret(self, secret: bytes, n: int) -> None:
        """It is read as it was written."""
        line = write_bridge_line(BridgeLine(*parse_address("192.0.2.7:443"), FINGERPRINT, Line(secret, secret, n)))
        self.assertEqual("Bridge " + self.scanned_modules(modules_of_text(click.unstyle(qr_text(line, "utf-8")))), line)


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data


class CardTests(CardCase):
    """The page for who gets a line."""

    def page(self, line: str, expires: int | None) -> Page:
        """The card of *line*."""
        self.path.unlink(missing_ok=True)
        write_card(self.path, line, expires)
        return Page(self.path.read_text("utf-8"))

    def test_it_is_a_whole_page(self) -> None:
        """Every element is closed; the line stands in it as it is."""
        page = self.page(LINE, EXPIRES)
        self.assertEqual(page.open, [])
        self.assertEqual(page.texts["code"], [LINE.removeprefix("Bridge ")])

    def test_a_card_says_what_the_line_is_and_until_when_it_opens(self) -> None:
        """What it is, what to do, what to keep in mind; and until when it opens."""
        for expires, until in ((EXPIRES, True), (None, False)):
            sentences = [" ".join(text.split()) for text in self.page(LINE, expires).texts["p"]]
            self.assertEqual(len(sentences), 3)
            self.assertTrue(all(re.fullmatch(r"[A-Z][^.]*\.", sentence) for sentence in sentences))
            self.assertEqual("opens until 2027-02-21 20:08 UTC" in sentences[2], until)

    def test_a_card_says_that_torknock_and_linux_are_needed(self) -> None:
        """Who has no Linux would try in vain, and show the line around."""
        text = " ".join(" ".join(self.page(LINE, None).texts["p"]).split())
        self.assertIn("Linux only", text)

    def test_no_margin_for_a_browser_to_write_in(self) -> None:
        """Which would print the file's name, and the title, at the edges of the page."""
        page = self.page(LINE, None)
        self.assertEqual(page.texts["title"], ["Card"])
        self.assertIn("@page { margin: 0 }", self.path.read_text())

    def test_a_card_loads_nothing_from_elsewhere(self) -> None:
        """No script, no resource from elsewhere, no link: to open it or to print it tells nobody about the bridge."""
        page = self.page(LINE, EXPIRES)
        tags = {tag for tag, _ in page.elements}
        self.assertEqual(tags, {"html", "meta", "title", "style", "h1", "p", "i", "svg", "g", "path", "code"})
        attributes = {name for _, given in page.elements for name in given}
        self.assertFalse(attributes & {"src", "href", "xlink:href", "style", "onload", "srcset", "data"})
        text = self.path.read_text()
        self.assertNotIn("url(", text)
        self.assertNotIn("@import", text)
        self.assertNotIn("//", text)
        (policy,) = [given["content"] for _, given in page.elements if "http-equiv" in given]
        assert policy is not None
        self.assertTrue(policy.startswith("default-src 'none';"))


class FileTests(CardCase):
    """Files with a secret in them."""

    def test_nobody_else_can_read_them(self) -> None:
        """Whatever the umask; and nothing else is left."""
        self.addCleanup(os.umask, os.umask(0))
        write_png(self.directory / "png", LINE)
        write_svg(self.directory / "svg", LINE)
        write_card(self.directory / "html", LINE, None)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in self.directory.iterdir()}
        self.assertEqual(modes, {"png": 0o600, "svg": 0o600, "html": 0o600})

    def refused(self, path: Path) -> str:
        """Why nothing can be written to *path*, in one line that does not hold the secret."""
        for number, write in enumerate((write_png, write_svg, lambda path, line: write_card(path, line, None))):
            said = str(self.assertRaises(CannotDraw, write, path, LINE))
            self.assertTrue(said.startswith(f"{path} cannot be written: ") and said.isprintable(), number)
            self.assertNotIn("key=", said)
        return said

    def test_a_file_that_exists_is_not_replaced(self) -> None:
        """A file, a directory, a link to nowhere."""
        self.path.write_text("mine")
        self.assertIn("there already", self.refused(self.path))
        self.assertEqual(self.path.read_text(), "mine")
        self.assertIn("there already", self.refused(self.directory))
        link = self.directory / "link"
        link.symlink_to(self.directory / "nowhere")
        self.assertIn("there already", self.refused(link))
        self.assertEqual(sorted(self.directory.iterdir()), [self.path, link])

    def test_what_cannot_be_is_said(self) -> None:
        """A directory that is not there, a disk that takes nothing more, a name too long."""
        for path in (self.directory / "nowhere" / "file", Path("/proc/nothing"), self.directory / ("x" * 300)):
            self.refused(path)
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_a_failure_leaves_no_file(self) -> None:
        """Neither a part of a file nor an empty one."""
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, self.path, LINE], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
        self.assertEqual(done.stdout, f"{self.path} cannot be written: File too large; name another file\n")
        self.assertEqual(list(self.directory.iterdir()), [])
