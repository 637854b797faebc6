"""What Linux provides and how it is asked. Knows nothing of knocking."""
