"""Socket options of Linux that Python's `socket` does not know, and their values."""

from __future__ import annotations

TCP_REPAIR = 19  # linux/tcp.h
TCP_REPAIR_QUEUE = 20  # linux/tcp.h
TCP_QUEUE_SEQ = 21  # linux/tcp.h
TCP_TIMESTAMP = 24  # linux/tcp.h
TCP_SAVE_SYN = 27  # linux/tcp.h
TCP_SAVED_SYN = 28  # linux/tcp.h
TCP_FASTOPEN_CONNECT = 30  # linux/tcp.h
TCP_FASTOPEN_NO_COOKIE = 34  # linux/tcp.h
TCP_SEND_QUEUE = 2  # linux/tcp.h
TCP_REPAIR_ON = 1  # linux/tcp.h
TCP_REPAIR_OFF_NO_WP = -1  # linux/tcp.h
IPV6_TRANSPARENT = 75  # linux/in6.h
IP_MINTTL = 21  # linux/in.h
IPV6_MINHOPCOUNT = 73  # linux/in6.h
TCP_MD5SIG_EXT = 38  # linux/tcp.h
TCP_MD5SIG_FLAG_PREFIX = 1  # linux/tcp.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h
SO_MEMINFO = 55  # asm-generic/socket.h
SO_PASSRIGHTS = 83  # asm-generic/socket.h, since Linux 6.16
SK_MEMINFO_DROPS = 8  # linux/sock_diag.h
