"""What operators do, as functions that return values."""
