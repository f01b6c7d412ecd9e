"""Which of a host's network interfaces leads to another host, as the system would route to it."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

_SIOCGIFADDR = 0x8915  # of Linux
_INET6 = Path("/proc/net/if_inet6")


def own_address(host: str, port: int) -> str | None:
    """Return this host's address on the route to another one; None if there is no route. Sends nothing."""
    with suppress(OSError):
        for family, _, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(place)
                return probe.getsockname()[0].partition("%")[0]
    return None


def is_loopback(address: str) -> bool:
    """Return whether an address is one that every host has for itself."""
    return ipaddress.ip_address(address).is_loopback


def is_own(host: str) -> bool:
    """Return whether a host's name or address is one of this host. Raises OSError if it is not known at all."""
    for family, _, _, _, place in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(place)
            return True
    return False


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has an address; None if that is not found, as on systems but Linux."""
    if not sys.platform.startswith("linux"):
        return None
    with suppress(OSError):
        if ":" in address:
            wanted = ipaddress.ip_address(address).packed.hex()
            return next((row.split()[-1] for row in _INET6.read_text().splitlines() if row.startswith(wanted)), None)
        return next((name for _, name in socket.if_nameindex() if _ipv4(name) == address), None)
    return None


def _ipv4(name: str) -> str | None:
    """Return the first IPv4 address of an interface."""
    import fcntl  # not on Windows

    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", name.encode()[:15])
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])
    return None
