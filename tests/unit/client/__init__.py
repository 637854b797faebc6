"""Tests of the client's transport, with a clock and a dialer in memory: which SYN leaves when, what tor is told."""
