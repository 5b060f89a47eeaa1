"""Programs in a private mount namespace (Linux, root): in a pod, in a container, or with another resolver."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

# /run is replaced in the new namespace alone: nothing outside of it changes, and it ends with the program.
_SCRIPT = """\
set -e
mount --make-rprivate /
mount -t tmpfs none /run
[ -e /var/run/. ] || mount -t tmpfs none /var/run
mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
mount --bind "$0" /var/run/secrets/kubernetes.io/serviceaccount
exec "$@"
"""


def in_pod(service_account: Path, command: Sequence[str]) -> list[str]:
    """`command` with that directory as its service account. Skips the test where that is not allowed."""
    if not _is_possible():
        pytest.skip("needs root and mount namespaces (unshare -m)")
    return ["unshare", "-m", "sh", "-c", _SCRIPT, str(service_account), *command]


_RESOLVER = """\
set -e
mount --make-rprivate /
mount --bind "$0/resolv.conf" /etc/resolv.conf
mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf
exec "$@"
"""


def with_resolver(address: str, folder: Path, command: Sequence[str]) -> list[str]:
    """`command` with that name server, and the patience of minutes with it. Skips the test as `in_pod`."""
    if not _is_possible():
        pytest.skip("needs root and mount namespaces (unshare -m)")
    (folder / "resolv.conf").write_text(f"nameserver {address}\noptions timeout:30 attempts:5\n")
    (folder / "nsswitch.conf").write_text("hosts: files dns\n")
    return ["unshare", "-m", "sh", "-c", _RESOLVER, str(folder), *command]


ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
USER_ID = 65532

# A root of its own, of links into the machine's: programs and libraries, what is mounted, and nothing else.
# Then all of it is read-only, and the user is nobody in particular.
_CONTAINER = """\
set -e
root=/run/root
mount --make-rprivate /
mount -t tmpfs none /run
mkdir "$root"
mount -t tmpfs -o mode=755 none "$root"
link() {
    mkdir -p "$root$2"
    mount --rbind "$1" "$root$2"
}
for name in bin sbin lib lib32 lib64 libx32 usr etc proc dev; do
    if [ -L "/$name" ]; then cp -P "/$name" "$root/$name"
    elif [ -d "/$name" ]; then link "/$name" "/$name"
    fi
done
mkdir "$root/tmp" "$root/home"
user="$1"
shift
while [ "$1" != -- ]; do
    link "$1" "$2"
    shift 2
done
shift
cut -d ' ' -f 5 /proc/self/mountinfo | grep "^$root" | while read -r point; do
    mount -o remount,bind,ro "$point" 2>/dev/null || true
done
exec chroot "$root" setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs \\
    --inh-caps=-all --bounding-set=-all "$@"
"""


def in_container(command: Sequence[str], mounts: Mapping[str, Path]) -> list[str]:
    """`command` as an engine runs it with a read-only root, no capability and the image's user.

    `mounts` are directories by their path in it; Python, its packages and this checkout are there by their
    own. Skips the test where that is not allowed, or where such a user could not start Python.
    """
    if not _is_possible() or not _starts_python():
        pytest.skip("needs root, mount namespaces (unshare -m), setpriv, and a Python that others may run")
    return [*_container(mounts), *command]


def _container(mounts: Mapping[str, Path]) -> list[str]:
    places = {str(path): path for path in _own_places()} | dict(mounts)
    return ["unshare", "-m", "sh", "-c", _CONTAINER, "sh", str(USER_ID), *_pairs(places), "--"]


def _pairs(places: Mapping[str, Path]) -> list[str]:
    return [part for place, path in places.items() for part in (str(path), place)]


def _own_places() -> list[Path]:
    """What Python needs beside /usr: its own folders, and this checkout."""
    checkout = Path(__file__).resolve().parents[2]
    places = [Path(sys.base_prefix), Path(sys.prefix), checkout / "kproxy"]
    return [place for place in dict.fromkeys(places) if not place.is_relative_to("/usr")]


@functools.cache
def _starts_python() -> bool:
    tried = subprocess.run([*_container({}), sys.executable, "-c", ""], capture_output=True, check=False)
    return tried.returncode == 0


@functools.cache
def _is_possible() -> bool:
    try:
        tried = subprocess.run(
            ["unshare", "-m", "sh", "-c", "mount --make-rprivate / && mount -t tmpfs none /run"],
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return tried.returncode == 0
