"""Tests with real packets, nftables and processes, in network namespaces. Needs root."""
