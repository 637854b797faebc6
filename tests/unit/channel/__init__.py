"""Tests of both channels: cut into pieces of any size, on loopback, and with OpenSSL's own programs as peers."""
