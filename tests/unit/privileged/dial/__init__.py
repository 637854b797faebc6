"""Tests of the dial service: hostile requests, quotas, remembered 4-tuples; `tests.kernel` sends the SYNs."""
