"""Tests of the gate without privilege; `tests.kernel.test_filter` runs it in the kernel."""
