"""Rulesets of hosts, as people, firewalld, ufw and Docker write them."""

from __future__ import annotations

PLAIN = """
    table inet own {
        set served { type inet_service; flags interval; elements = { 443, 8000-8100 } }
        set hosts { type ipv4_addr; elements = { 203.0.113.1 } }
        map ways { type inet_service : verdict; elements = { 22 : accept, 23 : drop } }
        chain served { tcp dport 8050 return; accept; }
        chain input {
            type filter hook input priority filter; policy drop;
            ct state vmap { established : accept, related : accept, invalid : drop }
            iifname "lo" accept
            ip saddr @hosts accept
            ip saddr 10.0.0.0/8 tcp dport 24 accept
            meta l4proto { icmp, ipv6-icmp } accept
            tcp flags syn / fin,syn,rst,ack tcp dport @served jump served
            tcp dport vmap @ways
            iifname "eth0" tcp dport 25 accept
            iifname "wg*" accept
            ip saddr . tcp dport { 203.0.113.2 . 26, 10.0.0.0/8 . 26 } accept
            tcp dport 27 limit rate 10/second accept
            tcp dport { 28, 29 } reject with tcp reset
            tcp dport > 60000 reject
            udp dport 53 accept
        }
    }
"""

FIREWALLD = """
    table inet firewalld {
        chain filter_PREROUTING {
            type filter hook prerouting priority filter + 10; policy accept;
            icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
            meta nfproto ipv6 fib saddr . mark . iif oif missing drop
        }
        chain filter_INPUT {
            type filter hook input priority filter + 10; policy accept;
            ct state { established, related } accept
            ct status dnat accept
            iifname "lo" accept
            ct state invalid drop
            jump filter_INPUT_ZONES
            reject with icmpx admin-prohibited
        }
        chain filter_INPUT_ZONES { goto filter_IN_public; }
        chain filter_IN_public {
            jump filter_IN_public_allow
            meta l4proto { icmp, ipv6-icmp } accept
        }
        chain filter_IN_public_allow {
            tcp dport 22 ct state { new, untracked } accept
            ip6 daddr fe80::/64 udp dport 546 ct state { new, untracked } accept
            tcp dport 443 ct state { new, untracked } accept
        }
    }
"""

UFW = """
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
:ufw-user-limit - [0:0]
:ufw-user-limit-accept - [0:0]
:ufw-after-input - [0:0]
:ufw-skip-to-policy-input - [0:0]
:ufw-after-logging-input - [0:0]
:ufw-reject-input - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-after-input
-A INPUT -j ufw-after-logging-input
-A INPUT -j ufw-reject-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp --icmp-type echo-request -j ACCEPT
-A ufw-before-input -p udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
-A ufw-not-local -j DROP
-A ufw-before-input -d 224.0.0.251/32 -p udp --dport 5353 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-user-input -p tcp --dport 443 -j ACCEPT -m comment --comment "it's ours"
-A ufw-user-input -p tcp -m multiport --dports 80,8000:8100 -j ACCEPT
-A ufw-user-input -s 10.0.0.0/8 -p tcp --dport 24 -j ACCEPT
-A ufw-user-input ! -i eth0 -p tcp --dport 25 -j ACCEPT
-A ufw-user-input -p tcp --dport 22 -m conntrack --ctstate NEW -m recent --set
-A ufw-user-input -p tcp --dport 22 -m conntrack --ctstate NEW -m recent --update --seconds 30 --hitcount 6 -j DROP
-A ufw-user-input -p tcp --dport 22 -j ufw-user-limit-accept
-A ufw-user-limit-accept -j ACCEPT
-A ufw-user-input -p tcp --syn --dport 26 -j REJECT --reject-with tcp-reset
-A ufw-user-input -p tcp --dport 27 -j REJECT
-A ufw-after-input -p tcp --dport 445 -j ufw-skip-to-policy-input
-A ufw-skip-to-policy-input -j DROP
-A ufw-after-logging-input -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
COMMIT
"""

DOCKER = """
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 443 -j DNAT --to-destination 172.17.0.2:443
COMMIT
"""
"""What Docker writes for `docker run --publish 443:443`."""

ANSWERING = {
    "synproxy": (
        "ANSWERED",
        """table inet own {
        chain before { type filter hook prerouting priority raw
            tcp dport 443 tcp flags syn notrack
        }
        chain input { type filter hook input priority 0
            tcp dport 443 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
        }
    }""",
    ),
    "-j SYNPROXY": (
        "ANSWERED",
        """*raw
-A PREROUTING -p tcp -m tcp --dport 443 --tcp-flags FIN,SYN,RST,ACK SYN -j CT --notrack
COMMIT
*filter
-A INPUT -p tcp -m tcp --dport 443 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --mss 1460 --wscale 7
COMMIT
""",
    ),
    "dport set": (
        "TAKEN",
        """table inet own { chain before { type filter hook prerouting priority 0
        tcp dport 443 tcp dport set 8443
    } }""",
    ),
    "netdev ingress": (
        "DROPPED",
        """table netdev own { chain in { type filter hook ingress device eth0 priority 0
        tcp dport 443 drop
    } }""",
    ),
    "inet ingress": (
        "PASSED",
        """table inet own { chain in { type filter hook ingress device eth0 priority 0
        policy drop
        tcp dport 443 accept
    } }""",
    ),
    "meta mark": (
        "DROPPED",
        """table inet own {
        chain before { type filter hook prerouting priority 0
            tcp dport 443 meta mark set 7
        }
        chain input { type filter hook input priority 0
            meta mark 7 drop
        }
    }""",
    ),
    "a set that a rule adds to": (
        "DROPPED",
        """table inet own {
        set seen { type ipv4_addr; flags dynamic
        }
        chain input { type filter hook input priority 0
            tcp dport 443 add @seen { ip saddr }
            ip saddr @seen drop
        }
    }""",
    ),
    "--ctstate INVALID,UNTRACKED": (
        "DROPPED",
        """*raw
-A PREROUTING -p tcp --dport 443 -j CT --notrack
COMMIT
*filter
-A INPUT -p tcp --dport 443 -m conntrack --ctstate INVALID,UNTRACKED -j DROP
COMMIT
""",
    ),
}
"""Rules that are known by what they do to port 443, with that; to others they do not do it."""

LATER = {
    "accept ends one chain": ("DROPPED", """*mangle
-A INPUT -p tcp -j ACCEPT
COMMIT
*filter
-A INPUT -p tcp -m tcp --dport 443 -j DROP
COMMIT
"""),
    "a comment with odd characters": (
        "DROPPED", '*filter\n-A INPUT -p tcp --dport 443 -m comment --comment "a\v\f\x1c\x85\u2028b" -j DROP\nCOMMIT\n',
    ),
}  # fmt: skip
"""The same, with rules that others could hide."""

STATEFUL = {
    "a limit": """table inet own { chain input { type filter hook input priority 0; policy drop
        tcp dport 443 limit rate 1/hour burst 1 packets accept
    } }""",
    "a count of connections": """table inet own { chain input { type filter hook input priority 0
        tcp dport 443 ct count over 1 drop
    } }""",
    "a meter": """table inet own {
        set met { type ipv4_addr; flags dynamic,timeout; timeout 1m
        }
        chain input { type filter hook input priority 0
            tcp dport 443 update @met { ip saddr limit rate over 1/hour burst 1 packets } drop
        }
    }""",
    "a set with timeouts": """table inet own {
        set banned { type ipv4_addr; flags timeout; timeout 1h; elements = { 203.0.113.1, 203.0.113.2 timeout 9m }
        }
        chain input { type filter hook input priority 0
            ip saddr @banned drop
        }
    }""",
    "-m recent": """*filter
-A INPUT -p tcp -m tcp --dport 443 -m recent --set --name seen --rsource
-A INPUT -p tcp -m tcp --dport 443 -m recent --update --seconds 60 --hitcount 2 --name seen --rsource -j DROP
COMMIT
""",
    "-m hashlimit": """*filter
-A INPUT -p tcp -m tcp --dport 443 -m hashlimit --hashlimit-above 1/hour --hashlimit-burst 1 --hashlimit-name a -j DROP
COMMIT
""",
}
"""Rules that let a stranger's first SYN in, and not the next."""

STRANGE = {
    "tproxy": (False, """table inet own { chain before { type filter hook prerouting priority mangle
        tcp dport 443 tproxy ip to 127.0.0.1:80 accept
    } }"""),
    "dup to": (False, """table ip own { chain before { type filter hook prerouting priority 0
        tcp dport 443 dup to 10.0.0.3
    } }"""),
    "fwd to": (False, """table netdev own { chain in { type filter hook ingress device eth0 priority 0
        tcp dport 443 fwd to eth0
    } }"""),
    "quota over": (False, """table inet own { chain input { type filter hook input priority 0
        tcp dport 443 quota over 1 mbytes drop
    } }"""),
    "ip ttl 17": (False, """table inet own { chain input { type filter hook input priority 0
        ip ttl 17 tcp dport 443 drop
    } }"""),
    "numgen": (False, """table inet own { chain input { type filter hook input priority 0
        tcp dport 443 numgen random mod 2 1 drop
    } }"""),
    "tcp sport": (False, """table inet own { chain input { type filter hook input priority 0
        tcp dport 443 tcp sport vmap { 1-1000 : drop, 1001-65535 : accept }
    } }"""),
    "bridge own in": (True, """table bridge own { chain in { type filter hook input priority 0
        tcp dport 443 drop
    } }"""),
    'at a hook of device "eth1"': (True, """table netdev own { chain in {
        type filter hook ingress device eth1 priority 0
        tcp dport 443 drop
    } }"""),
    "-j TPROXY": (False, "*mangle\n-A PREROUTING -p tcp --dport 443 -j TPROXY --on-port 80\nCOMMIT\n"),
    "-j TEE": (False, "*mangle\n-A PREROUTING -p tcp --dport 443 -j TEE --gateway 10.0.0.3\nCOMMIT\n"),
    "-j NFQUEUE": (False, "*filter\n-A INPUT -p tcp --dport 443 -j NFQUEUE --queue-num 7\nCOMMIT\n"),
    "-m socket": (True, "*mangle\n-A PREROUTING -p tcp -m socket -j DROP\nCOMMIT\n"),
    "-m bpf": (
        True, '*filter\n-A INPUT -m bpf --bytecode "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0" -j DROP\nCOMMIT\n',
    ),
    "-m u32": (False, '*filter\n-A INPUT -p tcp --dport 443 -m u32 --u32 "0>>22&0x3C@4=0" -j DROP\nCOMMIT\n'),
    "-m statistic": (False,
        "*filter\n-A INPUT -p tcp --dport 443 -m statistic --mode random --probability 0.5 -j DROP\nCOMMIT\n"),
}  # fmt: skip
"""Rules that do to a SYN what a copy of them does not tell: what must be said of them, and whether to every port."""

TAKING = {
    "dnat": "table ip own { chain in { type nat hook prerouting priority dstnat\ntcp dport 443 dnat to 10.0.0.2\n} }",
    "redirect": """table inet own { chain in { type nat hook prerouting priority -150
        tcp dport 443 redirect to :80
    } }""",
    "dport map": """table ip own { chain in { type nat hook prerouting priority dstnat
        dnat to tcp dport map { 443 : 10.0.0.2, 80 : 10.0.0.3 }
    } }""",
    "-j DNAT": DOCKER,
    "-j REDIRECT": "*nat\n-A PREROUTING -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 8443\nCOMMIT\n",
}
"""Rules that take port 443, and not 444, by their names."""
