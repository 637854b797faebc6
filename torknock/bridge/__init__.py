"""The bridge's transport: from tor's options to a guarded port, and from an accepted connection to tor."""
