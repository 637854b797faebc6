"""Tests of torknock.operate.setup.site_include: an operator's own nginx becomes a bridge's site, and is not hurt."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.host_tree import HostTreeCase
from tests.unit.channel import peer
from torknock.operate.setup import site_include
from torknock.operate.setup.changes import CannotChange, CannotSetUp
from torknock.operate.setup.record import Record
from torknock.operate.setup.server_block import ServerBlock, blocks_with_tls
from torknock.operate.setup.site_directory import SiteDirectory
from torknock.operate.setup.site_include import check_config, include_changes

_PATH = "AbCdEfGhIjKlMnOpQrStUv"

_MAIN = """\
daemon off;
pid {home}/nginx.pid;
error_log {home}/error.log info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    include {home}/site.conf;
}}
"""

_SITE = """\
# server {{ listen 443 ssl; }}
map $host $x {{ default "}}"; }}
server {{ listen unix:{home}/http.sock; return 301 https://$host$request_uri; }}
server {{
    listen unix:{home}/https.sock ssl;
    server_name "a{{1}}" site.example;  # }}
    ssl_certificate {home}/certificate.pem;
    ssl_certificate_key {home}/key.pem;
    location ~ "^/\\d{{4}}$" {{ return 204; }}
    set $y ${{host}};
}}
"""


class IncludeCase(HostTreeCase):
    """An nginx of two `server` blocks that runs, and the directory of a bridge's site."""

    def setUp(self) -> None:
        super().setUp()
        self.home, self.sockets = self.host / "nginx", self.host / "run"
        self.home.mkdir()
        self.host.chmod(0o755)
        self.sockets.mkdir()
        self.config = self.home / "site.conf"
        (self.home / "nginx.conf").write_text(_MAIN.format(home=self.home))
        self.config.write_text(_SITE.format(home=self.home))
        (self.home / "certificate.pem").write_bytes(peer.certificate("site.example").public_bytes(Encoding.PEM))
        key = peer.KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.home / "key.pem").write_bytes(key)
        self.command = ("nginx", "-p", str(self.home), "-c", "nginx.conf", "-e", f"{self.home}/error.log")
        self.patch(site_include, "_NGINX", self.command)
        self.record = Record(self.record_path)
        self.before = self.written()

    def start(self) -> None:
        """Start nginx, and wait until it serves the site."""
        nginx = subprocess.Popen(["/usr/sbin/nginx", *self.command[1:]], stderr=subprocess.DEVNULL)
        self.addCleanup(nginx.wait)
        self.addCleanup(nginx.terminate)
        while not self.serves("https.sock"):
            self.assertIsNone(nginx.poll())
            time.sleep(0.02)

    def serves(self, name: str) -> bool:
        with socket.socket(socket.AF_UNIX) as made:
            return made.connect_ex(str(self.home / name)) == 0

    def written(self) -> dict[str, bytes]:
        """Every file that a set-up may write."""
        ours = {".conf", ".json"}
        return {name: text for name, text in self.files().items() if Path(name).suffix in ours}

    def set_up(self) -> None:
        with self.record.locked(), self.record.making(include_changes(self.config, "", self.sockets, _PATH)):
            pass

    def undo(self) -> list[str]:
        with self.record.locked():
            return list(self.record.undo())

    @property
    def listens(self) -> bool:
        """Whether nginx is the bridge's site."""
        return os.path.exists(self.sockets / "site.sock")


class IncludeTests(IncludeCase):
    """The whole change, with nginx."""

    def test_nginx_becomes_the_site_and_an_undo_takes_it_back(self) -> None:
        """The site answers throughout, nobody but root reads the path, and a second run changes nothing."""
        self.start()
        check_config(self.config)
        self.set_up()
        self.assertTrue(self.listens and self.serves("https.sock"))
        self.assertEqual((self.host / "snippets" / "torknock.conf").stat().st_mode & 0o777, 0o600)
        self.assertIn("ssl_certificate", self.config.read_text().partition("# added by torknock setup")[2])
        self.assertEqual(include_changes(self.config, "", self.sockets, _PATH), [])
        self.assertEqual(self.undo(), [])
        self.assertEqual((self.listens, self.serves("https.sock"), self.written()), (False, True, self.before))

    def test_a_site_that_offers_http_2_offers_it_to_those_who_take_a_connection_over(self) -> None:
        """The added `listen` has the neighbour's word, also on a second run."""
        self.config.write_text(self.config.read_text().replace(" ssl;\n    server", " ssl http2;\n    server"))
        self.start()
        self.set_up()
        self.assertIn("site.sock ssl http2 proxy_protocol;", (self.host / "snippets" / "torknock.conf").read_text())
        self.assertEqual(include_changes(self.config, "", self.sockets, _PATH), [])

    def test_the_directory_of_the_sockets_is_removed_after_nginx_has_left_it(self) -> None:
        """An undo goes backwards: the include, the snippet, the directory."""
        self.start()
        self.sockets.rmdir()
        with self.record.locked(), self.record.making([SiteDirectory(str(self.sockets), self.host.owner())]):
            pass
        self.set_up()
        self.assertTrue(self.listens)
        self.assertEqual((self.undo(), self.sockets.exists()), ([], False))

    def test_what_nginx_refuses_is_taken_out_and_the_site_stays(self) -> None:
        """As with a path that the site has itself. nginx's own line is shown, without the path."""
        self.start()
        self.config.write_text(self.config.read_text().replace("    set", f"    location = /{_PATH} {{}}\n    set"))
        before = self.written()
        told = str(self.assertRaises(CannotChange, self.set_up))
        self.assertRegex(told, r"nginx would not take the site's lines.*duplicate location")
        self.assertNotIn(_PATH, told)
        self.assertEqual((self.listens, self.serves("https.sock"), self.written()), (False, True, before))

    def test_sockets_that_nginx_cannot_make_are_noticed_before_it_is_reloaded(self) -> None:
        """Their directory is missing; the site stays."""
        self.start()
        self.sockets.rmdir()
        told = str(self.assertRaises(CannotChange, self.set_up))
        self.assertRegex(told, r"nginx would not take .*bind\(\) to unix:.*failed")
        self.assertEqual((self.serves("https.sock"), self.written()), (True, self.before))

    def test_two_bridges_can_have_one_site(self) -> None:
        """Each has its own snippet and sockets; one that is undone leaves the other's."""
        self.start()
        self.set_up()
        second, sockets = Record(self.record_path.with_name("setup-b.json")), self.host / "run-b"
        sockets.mkdir()
        with second.locked(), second.making(include_changes(self.config, "-b", sockets, _PATH.swapcase())):
            pass
        self.assertTrue(self.listens and (sockets / "site.sock").exists())
        self.assertEqual((self.undo(), self.listens, (sockets / "site.sock").exists()), ([], False, True))
        with second.locked():
            self.assertEqual(list(second.undo()), [])
        self.assertEqual((self.serves("https.sock"), self.written()), (True, self.before))

    def test_an_nginx_that_does_not_run_is_not_changed(self) -> None:
        """It is said what to do."""
        self.assertIn("nginx cannot be reloaded", str(self.assertRaises(CannotChange, self.set_up)))
        self.assertEqual(self.written(), self.before)

    def test_an_include_that_was_moved_stops_the_undo_before_the_snippet_goes(self) -> None:
        """Without the snippet nginx would not start again; once the include is out, the undo goes on."""
        self.start()
        self.set_up()
        main = self.home / "nginx.conf"
        text = self.config.read_text()
        main.write_text(main.read_text().replace(f"include {self.config};", text))
        self.assertIn("still includes", str(self.assertRaises(CannotChange, self.undo)))
        self.assertTrue((self.host / "snippets" / "torknock.conf").exists())
        main.write_text(_MAIN.format(home=self.home))
        self.assertEqual((self.undo(), self.listens, self.written()), ([], False, self.before))

    def test_what_is_shown_before_it_is_changed_has_no_path(self) -> None:
        """Nor its reverse, which the lines have, too."""
        shown = "".join(change.describe() for change in include_changes(self.config, "", self.sockets, _PATH))
        self.assertIn("location = /... {", shown)
        self.assertNotIn(_PATH, shown)
        self.assertNotIn(_PATH[::-1], shown)


class ConfigTests(IncludeCase):
    """`check_config`: what is refused before anything is changed, in one line."""

    def test_a_file_that_has_not_one_block_with_tls_is_refused(self) -> None:
        """There is none, or there are two, or there is no file."""
        plain, whole = "server { listen 80; }\n", self.config.read_text()
        for text, told in ((plain, "has no server blocks with TLS"), (whole * 2, "has 2 server blocks")):
            self.config.write_text(text)
            with self.subTest(told=told), self.assertRaisesRegex(CannotSetUp, told):
                check_config(self.config)
        with self.assertRaisesRegex(CannotSetUp, "there is no file"):
            check_config(self.home / "other.conf")

    def test_a_configuration_that_nginx_does_not_take_is_not_touched(self) -> None:
        """What nginx says of it is shown."""
        self.config.write_text(self.config.read_text() + "nonsense;\n")
        with self.assertRaisesRegex(CannotSetUp, 'as it is: .*unknown directive "nonsense"'):
            check_config(self.config)

    def test_a_block_on_one_line_is_found(self) -> None:
        """With what stands around it."""
        text = "http { server{listen 443 ssl;} upstream u { server a; } } # server { listen 1 ssl; }"
        self.assertEqual(blocks_with_tls(text), [ServerBlock(text.index("listen"), http2=False)])
