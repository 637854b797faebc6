"""A Twisted library for managed pluggable transports."""
