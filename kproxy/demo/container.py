"""The inside of a pretend container: its files, its environment, its name. Nothing is executed."""

from __future__ import annotations

import errno
import os
import posixpath

from kproxy.demo.kinds import Json
from kproxy.demo.selectors import field_at

# All files of one container together.
_DISK_BYTES = 64 * 1024 * 1024


class FileError(OSError):
    """As the real errors: an errno and the path, and `str()` as coreutils print it."""

    def __init__(self, number: int, path: str) -> None:
        super().__init__(number, os.strerror(number), path)

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class Files:
    """A file system of a few files, in memory. Paths are absolute and normal (see `Container.path`)."""

    def __init__(self, files: dict[str, str], directories: tuple[str, ...]) -> None:
        self._entries: dict[str, bytearray | None] = {}
        """What each path holds; None for a directory."""
        for path in directories:
            self.make_directories(path)
        for path, text in files.items():
            self.make_directories(posixpath.dirname(path))
            self.write(path, text.encode())

    def is_directory(self, path: str) -> bool:
        return self._entries.get(path, b"") is None

    def is_file(self, path: str) -> bool:
        return self._entries.get(path) is not None

    def read(self, path: str) -> bytes:
        if path not in self._entries:
            raise FileError(errno.ENOENT, path)
        content = self._entries[path]
        if content is None:
            raise FileError(errno.EISDIR, path)
        return bytes(content)

    def write(self, path: str, content: bytes) -> None:
        if old := self._entries.get(path):
            old.clear()
        self.append(path, content)

    def append(self, path: str, content: bytes) -> None:
        if self.is_directory(path):
            raise FileError(errno.EISDIR, path)
        if not self.is_directory(posixpath.dirname(path)):
            raise FileError(errno.ENOENT, path)
        if sum(len(each or b"") for each in self._entries.values()) + len(content) > _DISK_BYTES:
            raise FileError(errno.ENOSPC, path)
        old = self._entries.setdefault(path, bytearray())
        if old is not None and path != "/dev/null":
            old.extend(content)

    def make_directory(self, path: str) -> None:
        if path in self._entries:
            raise FileError(errno.EEXIST, path)
        if not self.is_directory(posixpath.dirname(path)):
            raise FileError(errno.ENOENT, path)
        self._entries[path] = None

    def make_directories(self, path: str) -> None:
        """With all that lead to it; what is there already is fine."""
        if path != "/":
            self.make_directories(posixpath.dirname(path))
        self._entries.setdefault(path, None)

    def remove(self, path: str) -> None:
        self.read(path)
        del self._entries[path]

    def remove_tree(self, path: str) -> None:
        for each in self._below(path):
            if each != "/":
                del self._entries[each]

    def names(self, directory: str) -> list[str]:
        if not self.is_directory(directory):
            raise FileError(errno.ENOTDIR if self.is_file(directory) else errno.ENOENT, directory)
        inside = (path for path in self._entries if posixpath.dirname(path) == directory)
        return sorted(posixpath.basename(path) for path in inside if path != "/")

    def files_below(self, path: str) -> list[str]:
        """The path itself if it is a file, else every file under it."""
        if path not in self._entries:
            raise FileError(errno.ENOENT, path)
        return [each for each in self._below(path) if self.is_file(each)]

    def _below(self, path: str) -> list[str]:
        prefix = path.rstrip("/") + "/"
        return sorted(each for each in self._entries if each == path or each.startswith(prefix))


class Container:
    """What all commands in one container share; `path` makes a path absolute against a directory."""

    def __init__(self, pod: Json, name: str) -> None:
        metadata = pod["metadata"]
        spec = next(each for each in pod["spec"]["containers"] if each["name"] == name)
        self.hostname: str = metadata["name"]
        self.environment: dict[str, str] = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME": self.hostname,
            "HOME": "/root",
            "KPROXY_DEMO": "true",
            "KUBERNETES_SERVICE_HOST": "10.96.0.1",
            "KUBERNETES_SERVICE_PORT": "443",
            **{each["name"]: str(each.get("value", "")) for each in spec.get("env") or ()},
        }
        address = field_at(pod, "status.podIP") or "0.0.0.0"
        files = {
            "/dev/null": "",
            "/etc/hostname": f"{self.hostname}\n",
            "/etc/hosts": f"127.0.0.1\tlocalhost\n{address}\t{self.hostname}\n",
            "/etc/os-release": 'NAME="kproxy demo"\nPRETTY_NAME="Pretended by kproxy demo"\nID=demo\n',
            "/etc/resolv.conf": f"search {metadata['namespace']}.svc.cluster.local\nnameserver 10.96.0.10\n",
            "/app/README": "This container is pretended by kproxy demo: a toy shell and a few files.\n",
            "/var/run/secrets/kubernetes.io/serviceaccount/namespace": metadata["namespace"],
        }
        self.files = Files(files, ("/bin", "/root", "/tmp", "/usr/bin"))  # noqa: S108 -- pretended

    def path(self, directory: str, path: str) -> str:
        return posixpath.normpath(posixpath.join(directory, path)).replace("//", "/")
