"""A web site of real pages: nginx that compresses, over HTTP/1.1, with a certificate of a CA of its own."""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from tests.support.netns import Namespace, end

NAME = "www.example.org"
NGINX = "/usr/sbin/nginx"
PAGES = {
    "python": Path("/usr/share/doc/python3.11/html"),
    "handbook": Path("/usr/share/doc/debian-handbook/html/en-US"),
}
"""Pages with style sheets, scripts and images, by the path at which the site has them."""

_CONFIGURATION = """
user www-data; worker_processes auto; pid {where}/pid; error_log {where}/error.log; daemon off;
events {{ worker_connections 768; }}
http {{
    sendfile on; tcp_nopush on; types_hash_max_size 2048;
    include /etc/nginx/mime.types; default_type application/octet-stream;
    access_log off; gzip on; gzip_types text/css application/javascript application/json image/svg+xml;
    server {{
        {listen}
        server_name {name};
        ssl_certificate {where}/chain.pem; ssl_certificate_key {where}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
        {inside}
        {pages}
    }}
}}
"""


def pages() -> list[str]:
    """The URLs of all pages, in order."""
    return [
        f"https://{NAME}/{at}/{page.relative_to(root)}"
        for at, root in PAGES.items()
        for page in sorted(root.glob("*.html" if at == "handbook" else "*/*.html"))
        if not re.search(r"/_|genindex", str(page.relative_to(root)))
    ]


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def make_certificate(where: Path) -> str:
    """Write `chain.pem` and `key.pem` to *where*; the SHA-256 of the key's SubjectPublicKeyInfo, in base64."""
    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)

    def signed(name: str, public: ec.EllipticCurvePublicKey, more: x509.ExtensionType) -> x509.Certificate:
        builder = x509.CertificateBuilder(_named("Example CA"), _named(name), public, x509.random_serial_number())
        builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=90))
        return builder.add_extension(more, critical=False).sign(root, hashes.SHA256())

    leaf = signed(NAME, key.public_key(), x509.SubjectAlternativeName([x509.DNSName(NAME)]))
    authority = signed("Example CA", root.public_key(), x509.BasicConstraints(ca=True, path_length=0))
    (where / "chain.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in (leaf, authority)))
    (where / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (where / "key.pem").write_bytes(private)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(public).digest()).decode()


@contextmanager
def website(host: Namespace, listen: str = "listen 443 ssl;", inside: str = "") -> Iterator[str]:
    """The site on *host*; what `make_certificate` says of its key. *inside* goes into its server block."""
    with tempfile.TemporaryDirectory(prefix="torknock-bench-site-") as directory:
        where = Path(directory)
        where.chmod(0o755)
        spki = make_certificate(where)
        locations = "\n".join(f"location /{at}/ {{ alias {root}/; }}" for at, root in PAGES.items())
        (where / "nginx.conf").write_text(
            _CONFIGURATION.format(where=where, name=NAME, listen=listen, inside=inside, pages=locations)
        )
        running = host.popen([NGINX, "-p", directory, "-c", f"{where}/nginx.conf"], stderr=subprocess.DEVNULL)
        try:
            yield spki
        finally:
            end([running])
