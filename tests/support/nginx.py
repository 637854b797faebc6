"""nginx as the site of a bridge: one process, of this user's, on Unix sockets."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.netns import Namespace

NAME = "site.example"
PAGE = b"the operator's own page\n"

_CONFIGURATION = """\
daemon off;
master_process off;
pid {home}/nginx.pid;
error_log {home}/error.log info;
events {{}}
http {{
    access_log {home}/access.log;
    client_header_timeout 2s;
    client_body_timeout 2s;
    keepalive_timeout 2s;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        server_name {name};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate {home}/certificate.pem;
        ssl_certificate_key {home}/key.pem;
        root {home}/pages;
{lines}
    }}
}}
"""


class Nginx:
    """nginx with the *lines* of a site in its one server block, for `NAME`, and a page. It runs from `start` on."""

    def __init__(self, lines: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="torknock-nginx-", ignore_cleanup_errors=True)
        self.home = Path(self._directory.name)
        self.certificate = self.home / "certificate.pem"
        """What clients that trust no other certificate trust."""
        (self.home / "pages").mkdir()
        (self.home / "pages" / "index.html").write_bytes(PAGE)
        (self.home / "nginx.conf").write_text(_CONFIGURATION.format(home=self.home, name=NAME, lines=lines))
        self.show(certificate, key)
        self._process: subprocess.Popen[bytes] | None = None

    def show(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        """Show another certificate from the next start on."""
        self.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        octets = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.home / "key.pem").write_bytes(octets)

    def start(self, socket_path: Path, host: Namespace | None = None) -> None:
        """Start it, on *host* if that is given, and wait until it listens at *socket_path*."""
        command = ["/usr/sbin/nginx", "-p", str(self.home), "-c", "nginx.conf", "-e", f"{self.home}/error.log"]
        start = subprocess.Popen if host is None else host.popen
        self._process = start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not _listens(socket_path):
            if self._process.poll() is not None:
                raise RuntimeError(self.log)
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once; its sockets stay, as after a crash, unless it can remove them."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Its error log."""
        return (self.home / "error.log").read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, and remove its files."""
        self.stop()
        self._directory.cleanup()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as made:
        return made.connect_ex(str(path)) == 0
