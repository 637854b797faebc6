"""What the firewall of this host does with a stranger's SYN: asked of the kernel, in a copy of the rules."""
