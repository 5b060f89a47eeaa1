"""Sockets to listen on: bound with clear errors, or taken over; the files of unix sockets removed again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from kproxy.config.listeners import ListenerConfig, exposure
from kproxy.errors import ConfigError, KproxyError
from kproxy.system.addresses import is_loopback, joined
from kproxy.system.sockets import Keepalive

BACKLOG = 1024
_PORT_TRIES = 16
_ALONE_SECONDS = 1.0
"""So long is waited for others who bind a socket in the same folder; any program may lock a folder."""

_KEEPALIVE = Keepalive()
"""Accepted sockets inherit it: a client that vanished is found out within 75 s."""
_HOLDS = sys.platform == "linux"
"""Whether there are descriptors that hold a file which cannot be opened, open(2): their paths are links."""

_UNIX_MODE = 0o700
"""kubectl's: it binds under the umask 0077."""


class ListenError(KproxyError):
    """The address or socket to listen on cannot be had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SocketFile:
    """The file of a unix socket that we made. It is ours as long as the inode is."""

    path: str
    device: int
    inode: int

    @staticmethod
    def of(path: str) -> SocketFile:
        found = os.lstat(path)
        # Absolute, so that it is found again from another working directory.
        return SocketFile(path=os.path.abspath(path), device=found.st_dev, inode=found.st_ino)

    def remove(self) -> None:
        """Unlink it, unless another program has put its own there since. Idempotent."""
        with contextlib.suppress(OSError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                os.unlink(self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """A listening socket, and its file if it is a unix socket that we made."""

    socket: socket.socket
    names: tuple[str, ...] = ()
    """What a certificate for it must name; empty for a unix socket, which has no TLS."""
    file: SocketFile | None = None


def bind(config: ListenerConfig, *, is_exposed_allowed: bool) -> list[Bound]:
    """The listening sockets of one listener: one, but two for `localhost` on both loopbacks.

    Raises ConfigError for what the settings must not or cannot mean on this machine, ListenError when the
    address cannot be had.
    """
    if config.unix_socket is not None:
        return [bind_unix(config.unix_socket, mode=config.mode, owner=config.owner)]
    sockets: tuple[socket.socket, ...]
    if config.fd is not None:
        sockets = (_adopt_descriptor(config),)
    elif config.is_on_both_loopbacks:
        sockets = _bind_both(config.port, setting=config.setting)
    else:
        sockets = (bind_tcp(config.address, config.port, setting=config.setting),)
    bounds = [Bound(socket=each, names=_names_of(each, config)) for each in sockets]
    for bound in bounds:
        if bound.names and not is_exposed_allowed and not is_loopback(bound.names[0]):
            bound.socket.close()
            raise ConfigError(f"{config.label}: {exposure(bound.names[0], is_tls=config.has_tls)}")
    return bounds


def _names_of(bound: socket.socket, config: ListenerConfig) -> tuple[str, ...]:
    """Its address, and the name that it was asked for by."""
    if bound.family == socket.AF_UNIX:
        return ()
    names = [bound.getsockname()[0]]
    if config.is_tcp:
        names.append(config.address.strip("[]"))
    return tuple(dict.fromkeys(names))


def bind_tcp(address: str, port: int, *, setting: str = "--address") -> socket.socket:
    """A bound TCP socket; port 0 is any free one. Raises ListenError that names `setting`."""
    try:
        found = socket.getaddrinfo(
            address.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no host name"
        raise ListenError(
            f"cannot listen on {setting}={address}: {reason}; give an IP address of this machine"
        ) from None
    # Go listens on the IPv4 address of a name that has both.
    family, kind, protocol, _, sockaddr = min(found, key=lambda each: each[0] != socket.AF_INET)
    try:
        return _bind_address(family, kind, protocol, sockaddr)
    except OSError as error:
        _refuse(error, address, port, setting)


def _bind_address(family: int, kind: int, protocol: int, sockaddr: Any) -> socket.socket:
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `::` is all addresses, those of IPv4 too, whatever the system's net.ipv6.bindv6only says.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, sockaddr[0] != "::")
        _KEEPALIVE.apply(bound, may_stall=True)
        bound.bind(sockaddr)
        bound.listen(BACKLOG)
    except BaseException:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


def _bind_both(port: int, *, setting: str) -> tuple[socket.socket, ...]:
    """127.0.0.1 and ::1 on one port; a machine without IPv6 has the first alone. Raises ListenError."""
    tries = _PORT_TRIES if port == 0 else 1
    while True:
        tries -= 1
        first = bind_tcp("127.0.0.1", port, setting=setting)
        try:
            second = _bind_address(
                socket.AF_INET6, socket.SOCK_STREAM, 0, ("::1", first.getsockname()[1], 0, 0)
            )
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return (first,)
            first.close()
            if error.errno != errno.EADDRINUSE or not tries:
                _refuse(error, "::1", port, setting)
        else:
            return first, second


def _refuse(error: OSError, address: str, port: int, setting: str) -> NoReturn:
    another = "with --port" if setting == "--address" else f"for {setting}"
    if error.errno == errno.EADDRINUSE:
        # Imported here: a start that goes well does not ask who has its port.
        from kproxy.listeners.portholder import holder_of

        holder = holder_of(address, port)
        raise ListenError(
            f"port {port} on {address} is already in use{f' by {holder}' if holder else ''}; "
            f"stop the program that has it, or choose another {another} (0 for any)"
        ) from None
    if error.errno == errno.EACCES:
        raise ListenError(
            f"no permission to listen on port {port}; choose one above 1023 {another}"
        ) from None
    raise ListenError(f"cannot listen on {joined(address, port)}: {error.strerror}") from None


def bind_unix(path: str, *, mode: int | None = None, owner: str | None = None) -> Bound:
    """A bound unix socket that only its owner can use, unless `mode` and `owner` say otherwise.

    `owner` is `user`, `user:group` or `:group`, names or numbers. A stale socket is replaced. Raises
    ConfigError for an owner that this machine has not, ListenError when the socket cannot be had.
    """
    user, group = _ids_of(owner) if owner else (-1, -1)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _alone_in(os.path.dirname(os.path.abspath(path))):
            _remove_stale(path)
            mask = os.umask(0o777 & ~_UNIX_MODE)
            try:
                bound.bind(path)
            finally:
                os.umask(mask)
            file = SocketFile.of(path)
            bound.listen(BACKLOG)
        try:
            if owner or mode is not None:
                with _held(file) as place:
                    # The owner first: a wide mode must not let in the group that it had before.
                    if owner:
                        _give(path, place, owner, user, group)
                    if mode is not None:
                        os.chmod(place, mode, follow_symlinks=_HOLDS)
        except BaseException:
            file.remove()
            raise
    except OSError as error:
        bound.close()
        advice = "; make its folder first" if error.errno == errno.ENOENT else ""
        raise ListenError(
            f"cannot listen on --unix-socket={path}: {error.strerror or error}{advice}"
        ) from None
    except BaseException:
        bound.close()
        raise
    bound.setblocking(False)
    return Bound(socket=bound, file=file)


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """One of us at a time: a socket that is bound and does not listen yet looks like a stale one."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        # There is no such folder, which bind tells better, or one that must not be read.
        yield
        return
    try:
        deadline = time.monotonic() + _ALONE_SECONDS
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            except OSError:
                pass  # a file system without locks
            break
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _held(file: SocketFile) -> Iterator[str]:
    """A path of the socket that we made, whatever others have put in its place since.

    In a folder of several users that may be a link to a file which must not be opened to all. Raises OSError.
    """
    if sys.platform != "linux":
        yield file.path
        return
    descriptor = os.open(file.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != (file.device, file.inode) or not stat.S_ISSOCK(found.st_mode):
            raise OSError(errno.ESTALE, "somebody else has put a file in its place")
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _give(path: str, place: str, owner: str, user: int, group: int) -> None:
    try:
        os.chown(place, user, group, follow_symlinks=_HOLDS)
    except PermissionError:
        raise ListenError(
            f"cannot give --unix-socket={path} to {owner}: only root can give it to another user, "
            "and a user only to groups of their own"
        ) from None


def _ids_of(owner: str) -> tuple[int, int]:
    """(uid, gid), -1 for what `owner` leaves as it is."""
    # Imported here: hardly a start needs them.
    import grp
    import pwd

    user, _, group = owner.partition(":")
    try:
        uid = -1 if not user else int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigError(f"unix_socket_owner: this machine has no user {user!r}") from None
    try:
        gid = -1 if not group else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"unix_socket_owner: this machine has no group {group!r}") from None
    return uid, gid


def _remove_stale(path: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ListenError(
            f"--unix-socket={path} exists and is not a socket; choose another path or remove it"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A program that is so busy that its backlog is full would hold us up.
        probe.setblocking(False)
        number = probe.connect_ex(path)
    # Refused: nobody listens. All else, such as another type of socket, is somebody's.
    if number not in (errno.ECONNREFUSED, errno.ENOENT):
        whose = "somebody else" if number in (errno.EACCES, errno.EPERM) else "a running program"
        raise ListenError(f"--unix-socket={path} is in use by {whose}; choose another path")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _adopt_descriptor(config: ListenerConfig) -> socket.socket:
    assert config.fd is not None
    try:
        passed = socket.socket(fileno=config.fd)
    except OSError as error:
        raise ConfigError(
            f"{config.label}: file descriptor {config.fd} is no socket that was passed to kproxy "
            f"({error.strerror})"
        ) from None
    try:
        return adopt(passed)
    except BaseException:
        passed.detach()
        raise


def adopt(passed: socket.socket) -> socket.socket:
    """Make a socket that another program bound, such as systemd, ready for a `Listener`.

    Its path, if it is a unix socket, stays that program's: it is never removed. Raises ConfigError when it
    is no listening stream socket.
    """
    fd = passed.fileno()
    if passed.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise ConfigError(f"the passed descriptor {fd} is neither a TCP nor a unix socket")
    if passed.type != socket.SOCK_STREAM:
        raise ConfigError(
            f"the passed descriptor {fd} is no stream socket; in a systemd unit write ListenStream="
        )
    if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(
            f"the passed descriptor {fd} is not listening; in a systemd unit leave out Accept=yes"
        )
    if passed.family != socket.AF_UNIX:
        _KEEPALIVE.apply(passed, may_stall=True)
    # Exec plugins get descriptors of their own, not ours.
    passed.set_inheritable(False)
    passed.setblocking(False)
    return passed
