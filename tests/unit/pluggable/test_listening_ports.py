"""`pluggable.listening_ports`."""

from __future__ import annotations

import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from pluggable.listening_ports import listening_ports

TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:EAA5 00000000:0000 0A 00000000:00000000 00:00000000 00000000   104        0 4279223 1 0 100 0 0 10 0
   1: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4279204 1 0 100 0 0 10 0
   2: 0100007F:0050 0100007F:EAA5 01 00000000:00000000 00:00000000 00000000   104        0 4279205 1 0 100 0 0 10 0
   3: 00000000:0051 00000000:0000 0A 00000000:00000000 00:00000000 00000000   104        0 4279206 1 0 100 0 0 10 0
"""


class ListeningPortsTests(SynchronousTestCase):
    """`listening_ports`."""

    def test_only_listeners_of_the_user_at_the_address_are_found(self) -> None:
        """No other user's, no connection, no other address."""
        self.assertEqual(listening_ports("127.0.0.1", 104, TABLE), {4279223: 0xEAA5})

    def test_a_listener_of_this_process_is_found_while_it_listens(self) -> None:
        """A socket of this process is there, as long as it listens."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            inode, port = os.fstat(listening.fileno()).st_ino, listening.getsockname()[1]
            self.assertEqual(listening_ports("127.0.0.1", os.geteuid())[inode], port)
            self.assertNotIn(inode, listening_ports("127.0.0.1", os.geteuid() + 1))
            self.assertNotIn(inode, listening_ports("::1", os.geteuid()))
        self.assertNotIn(inode, listening_ports("127.0.0.1", os.geteuid()))
