"""Network addresses as text. Pure."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address


def joined(host: str, port: int) -> str:
    """`127.0.0.1:8001`, `[::1]:8001`, as Go's net.JoinHostPort."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(address: str) -> bool | None:
    """Whether only this machine reaches the address; None for a host name, which must be looked up first."""
    name = address.strip("[]").partition("%")[0]
    if name.lower() == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        ip = ip_address(name)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).is_loopback
