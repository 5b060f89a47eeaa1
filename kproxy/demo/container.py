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

    def __init__(self, files: dict[str, bytes], directories: tuple[str, ...]) -> None:
        self._files = {path: bytearray(content) for path, content in files.items()}
        self._directories = {"/", *directories}
        for path in (*files, *directories):
            self._add_parents(path)

    def is_directory(self, path: str) -> bool:
        return path in self._directories

    def is_file(self, path: str) -> bool:
        return path in self._files

    def read(self, path: str) -> bytes:
        if path == "/dev/null":
            return b""
        if path in self._directories:
            raise FileError(errno.EISDIR, path)
        if path not in self._files:
            raise FileError(errno.ENOENT, path)
        return bytes(self._files[path])

    def write(self, path: str, content: bytes) -> None:
        if path in self._files:
            self._files[path].clear()
        self.append(path, content)

    def append(self, path: str, content: bytes) -> None:
        if path == "/dev/null":
            return
        if path in self._directories:
            raise FileError(errno.EISDIR, path)
        if posixpath.dirname(path) not in self._directories:
            raise FileError(errno.ENOENT, path)
        if sum(map(len, self._files.values())) + len(content) > _DISK_BYTES:
            raise FileError(errno.ENOSPC, path)
        self._files.setdefault(path, bytearray()).extend(content)

    def make_directory(self, path: str) -> None:
        if path in self._files or path in self._directories:
            raise FileError(errno.EEXIST, path)
        if posixpath.dirname(path) not in self._directories:
            raise FileError(errno.ENOENT, path)
        self._directories.add(path)

    def make_directories(self, path: str) -> None:
        """With all that lead to it; what is there already is fine."""
        self._add_parents(path)
        self._directories.add(path)

    def remove(self, path: str) -> None:
        if path in self._directories:
            raise FileError(errno.EISDIR, path)
        if self._files.pop(path, None) is None:
            raise FileError(errno.ENOENT, path)

    def remove_tree(self, path: str) -> None:
        below = path.rstrip("/") + "/"
        self._files = {
            name: content
            for name, content in self._files.items()
            if name != path and not name.startswith(below)
        }
        gone = {each for each in self._directories if each == path or each.startswith(below)}
        self._directories -= gone - {"/"}

    def names(self, directory: str) -> list[str]:
        if directory not in self._directories:
            raise FileError(errno.ENOTDIR if directory in self._files else errno.ENOENT, directory)
        found = (*self._files, *self._directories)
        return sorted(
            posixpath.basename(path) for path in found if path != "/" and posixpath.dirname(path) == directory
        )

    def below(self, path: str) -> list[str]:
        """The path itself if it is a file, else every file under it."""
        if path in self._files:
            return [path]
        if path not in self._directories:
            raise FileError(errno.ENOENT, path)
        prefix = path.rstrip("/") + "/"
        return sorted(name for name in self._files if name.startswith(prefix))

    def _add_parents(self, path: str) -> None:
        while path != "/":
            path = posixpath.dirname(path)
            self._directories.add(path)


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
        }
        self.environment |= {each["name"]: str(each.get("value", "")) for each in spec.get("env") or ()}
        address = field_at(pod, "status.podIP") or "0.0.0.0"
        texts = {
            "/etc/hostname": f"{self.hostname}\n",
            "/etc/hosts": f"127.0.0.1\tlocalhost\n{address}\t{self.hostname}\n",
            "/etc/os-release": 'NAME="kproxy demo"\nPRETTY_NAME="Pretended by kproxy demo"\nID=demo\n',
            "/etc/resolv.conf": f"search {metadata['namespace']}.svc.cluster.local\nnameserver 10.96.0.10\n",
            "/app/README": "This container is pretended by kproxy demo: a toy shell and a few files.\n",
            "/var/run/secrets/kubernetes.io/serviceaccount/namespace": metadata["namespace"],
        }
        self.files = Files(
            {path: text.encode() for path, text in texts.items()},
            ("/bin", "/dev", "/root", "/tmp", "/usr/bin"),  # noqa: S108 -- names in a pretend file system
        )

    def path(self, directory: str, path: str) -> str:
        return posixpath.normpath(posixpath.join(directory, path)).replace("//", "/")
