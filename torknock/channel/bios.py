"""Memory BIOs that do not stay as large as the most that they ever held (BIO_s_mem(3ossl)).

OpenSSL's memory BIO keeps its buffer when it has been read empty: after 120 KiB at once, 160 KiB at each end and in
each direction, for as long as the connection is open. pyOpenSSL has no public way to shrink one, so both are replaced
through its own binding, `SSL._lib`, in the way its `Connection` makes them; `test_bios` notices when that changes.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL


def renew(connection: SSL.Connection) -> None:
    """Replace the memory BIOs of *connection*. What is in the old ones is lost: both must have been read empty.

    Raises `MemoryError` if OpenSSL cannot make them; then nothing has changed.
    """
    binding: Any = SSL
    owner: Any = connection
    into, out = (_empty(binding) for _ in range(2))
    binding._lib.SSL_set_bio(owner._ssl, into, out)  # which frees the old ones, and the new ones with the connection
    owner._into_ssl, owner._from_ssl = into, out


def _empty(binding: Any) -> Any:
    bio = binding._lib.BIO_new(binding._lib.BIO_s_mem())
    if bio == binding._ffi.NULL:
        raise MemoryError("OpenSSL has no memory for a BIO")
    return bio
