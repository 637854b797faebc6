"""What several tests share: hosts, captures, packets, a private Tor network, hypothesis strategies."""
