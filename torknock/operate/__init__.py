"""What operators do, as functions that return values; `torknock.cli` asks and prints."""
