"""Tests of what tor is asked: its answers as text, and control ports that are slow, silent or not tor's."""
