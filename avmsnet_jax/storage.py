"""Folders on object stores (`gs://…`, `s3://…`) through fsspec, with the same code for every store.

Commands work in local folders: input from a store is first copied to a local folder, and output is copied to the store
once it is complete.

Stores have no atomic rename. A folder on a store that is being written or removed therefore holds the object
`.unfinished`, which is written first and removed last. Readers ignore such a folder, and the next writer replaces it.

A training run works in a local copy of its working directory (`Run`), which lies in the temporary folder (`TMPDIR`).
After each checkpoint, all changed files are copied to the store in the background. metrics.jsonl and TensorBoard's
files there are as new as the newest checkpoint; a resumed run would drop later lines anyway.

Stores have no locks: two runs in one working directory on a store are not detected.
"""

import atexit
import contextlib
import functools
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avmsnet_jax import staging
from avmsnet_jax.errors import UserError, brief

Place = str | os.PathLike[str]

UNFINISHED = ".unfinished"
_EXTRAS = {"gs": "gcs", "s3": "s3"}  # scheme -> extra in pyproject.toml


def is_remote(place: Place) -> bool:
    """Whether a place is on a store.

    Raises:
      UserError: it is on a store that is not supported, or names no bucket.
    """
    match = re.match(r"([A-Za-z][\w+.-]*)://([^/]*)", os.fspath(place))
    if not match:
        return False
    scheme, bucket = match.groups()
    if scheme not in _EXTRAS or not bucket:
        raise UserError(
            f"{os.fspath(place)} is no place to read or write; give a folder, gs://BUCKET/… or s3://BUCKET/…"
        )
    return True


def refuse(place: Place, what: str) -> None:
    """Raises UserError if `place`, the value of the option `what`, is on a store: for options that take folders."""
    if is_remote(place):
        raise UserError(
            f"{what} {os.fspath(place)} is on a store, which this does not support; give a folder, and copy it there"
        )


def join(place: str, *names: str) -> str:
    """The address of `names` within `place`."""
    return "/".join([place.rstrip("/"), *names])


def listed(url: str) -> dict[str, int]:
    """The files at a place on a store, by their names relative to it, with their sizes in bytes.

    Raises:
      UserError: the store cannot be reached, or a name would lead out of the folder.
    """
    store, root = _open(url)
    with _reaching(url, "read"):
        store.invalidate_cache()
        try:
            found = store.find(root, detail=True)
        except FileNotFoundError:  # there is no such bucket
            return {}
    files = {name[len(root) + 1 :]: int(info["size"]) for name, info in found.items() if name.startswith(f"{root}/")}
    files = {name: size for name, size in files.items() if name and not name.endswith("/")}  # some tools mark folders
    for name in files:
        if {"", ".", ".."} & {*name.split("/")} or "\0" in name or "\\" in name:
            raise UserError(f"{url} holds an object {name!r}, which is no name of a file; remove it")
    return files


def whole(files: Mapping[str, int]) -> dict[str, int]:
    """The files of `listed`, without those in folders that are being written or removed."""
    folders = unfinished(files)
    return {name: size for name, size in files.items() if not name.startswith(folders)}


def unfinished(files: Mapping[str, int]) -> tuple[str, ...]:
    """The folders in `listed` that are being written or removed, with a slash at their ends; "" is the place itself."""
    return tuple(name.removesuffix(UNFINISHED) for name in files if name.rpartition("/")[2] == UNFINISHED)


def download(url: str, files: Mapping[str, int], folder: Path) -> None:
    """Copies files of a place on a store to a local folder.

    Args:
      url: the place.
      files: names and sizes, of those in `listed`.
      folder: where they go, made if need be.

    Raises:
      UserError: the store cannot be reached, a file is not as large as `files` says, or the disk has no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size, room = sum(files.values()), shutil.disk_usage(folder).free
    if size > room:
        raise UserError(f"{url} has {size:,} bytes, and {folder} room for {room:,}; set TMPDIR or data.cache elsewhere")
    if not files:
        return
    store, root = _open(url)
    names = list(files)
    with _reaching(url, "read"):
        store.get([f"{root}/{name}" for name in names], [str(folder / name) for name in names])
    for name in names:
        if not (folder / name).is_file() or (folder / name).stat().st_size != files[name]:
            raise UserError(f"{join(url, name)} changed while it was read; try again")


def upload(folder: Path, url: str, names: Sequence[str] | None = None) -> None:
    """Copies a local folder to a place on a store, where it appears whole or not at all.

    Args:
      folder: what to copy.
      url: the place. What is there is replaced file by file.
      names: copy only these files; None = all.

    Raises:
      UserError: the store cannot be written.
    """
    names = names if names is not None else [str(path.relative_to(folder)) for path in _files_in(folder)]
    store, root = _open(url)
    with _reaching(url, "write"):
        store.pipe_file(f"{root}/{UNFINISHED}", b"")
        store.put([str(folder / name) for name in names], [f"{root}/{name}" for name in names])
        store.rm_file(f"{root}/{UNFINISHED}")


def put(folder: Path, url: str, names: Sequence[str]) -> None:
    """Copies single files; each appears complete or not at all."""
    store, root = _open(url)
    if names:
        with _reaching(url, "write"):
            store.put([str(folder / name) for name in names], [f"{root}/{name}" for name in names])


def remove(url: str) -> None:
    """Removes a folder on a store, complete or not."""
    store, root = _open(url)
    with _reaching(url, "write"):
        store.pipe_file(f"{root}/{UNFINISHED}", b"")
        for name in listed(url):
            if name != UNFINISHED:
                store.rm_file(f"{root}/{name}")
        store.rm_file(f"{root}/{UNFINISHED}")


def taken(target: Place) -> bool:
    """Whether `target` exists; an empty folder, and remains of a killed process on a store, do not count."""
    if is_remote(target):
        return bool(whole(listed(os.fspath(target))))
    return staging.taken(Path(target))


@contextlib.contextmanager
def staged(target: Place) -> Iterator[Path]:
    """Yields a local path to write a directory to, which then replaces `target`, a folder or a place on a store.

    If the block fails, `target` stays as it was; see `staging.staged`.

    Raises:
      UserError: the place cannot be written.
    """
    if not is_remote(target):
        with staging.staged(Path(target).absolute()) as stage:
            yield stage
        return
    url = os.fspath(target)
    with temporary_folder() as folder:
        if listed(url):  # remains of a killed process, as the caller has checked that the place is not `taken`
            remove(url)
        yield folder / "new"
        try:
            upload(folder / "new", url)
        except UserError:
            with contextlib.suppress(UserError):
                remove(url)
            raise


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A local folder that is removed at the end.

    Raises:
      UserError: it cannot be made.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="avmsnet_", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(f"cannot make a temporary folder: {error.strerror}; set TMPDIR to a place with room") from None
    with folder as name:
        yield Path(name)


_copies: dict[Path, str] = {}  # local folders of this process, and the places on stores that they are copies of


def kept_copy(url: str) -> Path:
    """A new local folder for a copy of `url`, which is removed when the process ends."""
    stack = contextlib.ExitStack()
    folder = stack.enter_context(temporary_folder())
    atexit.register(stack.close)
    _copies[folder] = url
    return folder


def shown(place: Place) -> str:
    """A place as the user named it: for a path in a local copy, the address on the store."""
    path = Path(place)
    for folder, url in _copies.items():
        if path.is_relative_to(folder):
            return join(url, *path.relative_to(folder).parts)
    return os.fspath(place)


class Run:
    """The working directory of a training run: a folder, or the local copy of a place on a store.

    Attributes:
      name: the place, as the user gave it.
      folder: where the run works.
    """

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        self.is_remote = is_remote(name)
        self._there: dict[str, tuple[int, int]] = {}  # files on the store, with size and time of their local copies

    def pull(self, *, tidy: bool) -> None:
        """Makes the folder a copy of the store.

        Args:
          tidy: whether to remove folders that a killed process left half-written or half-removed on the store.

        Raises:
          UserError: the store cannot be reached, or the disk has no room.
        """
        files = listed(self.name)
        for left in unfinished(files) if tidy else ():
            remove(join(self.name, left.rstrip("/")) if left else self.name)
        download(self.name, whole(files), self.folder)
        self._there = self._here()

    def push(self) -> None:
        """Copies changed files to the store, and removes checkpoints there that are no longer in the folder.

        Raises:
          UserError: the store cannot be written.
        """
        if not self.is_remote:
            return
        here = self._here()
        changed = [name for name, state in here.items() if self._there.get(name) != state]
        folders = {_whole_folder(name) for name in changed} - {""}
        for folder in sorted(folders):
            own = [name.removeprefix(f"{folder}/") for name in here if _whole_folder(name) == folder]
            upload(self.folder / folder, join(self.name, folder), own)
        put(self.folder, self.name, [name for name in changed if not _whole_folder(name)])
        gone = {_whole_folder(name) for name in self._there} - {_whole_folder(name) for name in here}
        for folder in sorted(gone):
            remove(join(self.name, folder))
        self._there = here

    def _here(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in _files_in(self.folder):
            name = str(path.relative_to(self.folder))
            if not any(part.startswith(".") or "orbax-checkpoint-tmp" in part for part in name.split("/")):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    status = path.stat()
                    found[name] = status.st_size, status.st_mtime_ns
        return found


def _whole_folder(name: str) -> str:
    """The checkpoint folder that a file of a run is in, which is uploaded as a whole; empty for any other file."""
    match = re.match(r"(?:checkpoints|damaged)/[^/]+(?=/)", name)
    return match[0] if match else ""


@contextlib.contextmanager
def run_in(workdir: Place, *, tidy: bool) -> Iterator[Run]:
    """The working directory of a run; for a place on a store, a local copy of it."""
    name = os.fspath(workdir)
    if not is_remote(name):
        yield Run(name, Path(name))
        return
    with temporary_folder() as folder:
        run = Run(name.rstrip("/"), folder)
        run.pull(tidy=tidy)
        try:
            yield run
        except UserError as error:  # name files by their address on the store
            raise UserError(str(error).replace(str(folder), run.name)) from error


def _files_in(folder: Path) -> Iterator[Path]:
    for place, _, files in os.walk(folder):
        yield from (Path(place, name) for name in files)


@functools.cache
def _filesystem(scheme: str) -> Any:
    # Otherwise gcsfs asks another service for the kind of each bucket, and waits a minute if it cannot be reached.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec

    for library in ("gcsfs", "s3fs", "botocore", "google"):  # they also log what they raise
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        return fsspec.filesystem(scheme)
    except ImportError:
        raise UserError(f"{scheme}:// needs an extra: pip install 'avmsnet_jax[{_EXTRAS[scheme]}]'") from None


def _open(url: str) -> tuple[Any, str]:
    """The file system of a place, and its path there, without a slash at its end."""
    scheme, path = url.split("://", 1)
    with _reaching(url, "reach"):
        return _filesystem(scheme), path.rstrip("/")


@contextlib.contextmanager
def _reaching(url: str, what: str) -> Iterator[None]:
    """Turns the errors of a store, which have many types, into a UserError."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except FileNotFoundError as error:
        raise UserError(f"cannot {what} {url}: {brief(error)} is not there; check the address") from error
    except Exception as error:
        remedy = "check the address, the credentials and the network, and try again"
        raise UserError(f"cannot {what} {url}: {brief(error)}; {remedy}") from error
