"""What this host's firewall does with a SYN: judged from its rules, without sending one."""
