"""The lines that a bridge has issued, and its key."""
