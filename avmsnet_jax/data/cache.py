"""Records on a store: ArrayRecord reads local files, so the records are copied to this machine once.

A copy lies in `data.cache`, in a folder whose name ends in a digest of its address and manifest, so that records which
were prepared anew get a new one. It appears whole or not at all, after the size and the checksum of each file were
compared with the manifest. All processes of a machine share it. Nothing removes it but you.
"""

import functools
import hashlib
import os
import re
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path

import filelock

from avmsnet_jax import program, storage
from avmsnet_jax.config import DataConfig
from avmsnet_jax.data import MANIFEST
from avmsnet_jax.data.manifest import MOST_BYTES, Manifest, read_manifest
from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import staged

_BLOCK_BYTES = 2**20


def local_records(data: DataConfig) -> str:
    """The folder of the records: `data.dir`, or the local copy if that is on a store.

    Raises:
      UserError: the store cannot be reached, the records on it are not whole, or the cache cannot be written.
    """
    if not storage.is_remote(data.dir):
        return data.dir
    return _copied(data.dir.rstrip("/"), data.cache)


def checksums(folder: Path) -> dict[str, dict[str, int | str]]:
    """Size and CRC-32 of each file in a folder, by its relative path: the manifest's `files`."""
    found: dict[str, dict[str, int | str]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "crc32": _crc32(path)}
    return found


@functools.cache
def _copied(url: str, cache: str) -> str:
    listed = storage.whole(storage.listed(url))
    if listed.get(MANIFEST, MOST_BYTES + 1) > MOST_BYTES:
        raise UserError(
            f"{url} holds no prepared records ({MANIFEST} is missing); copy a {program.typed('prepare')} --output there"
        )
    with storage.temporary_folder() as folder:
        storage.download(url, {MANIFEST: listed[MANIFEST]}, folder)
        manifest = read_manifest(folder)
        digest = hashlib.sha256(url.encode() + (folder / MANIFEST).read_bytes()).hexdigest()[:16]
    files = _files(url, listed, manifest)
    place = _folder(cache) / f"{re.sub(r'[^A-Za-z0-9]+', '-', url)[-60:]}-{digest}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(place.with_name(f".{place.name}.lock")):
            if not place.exists():
                print(f"copying {url}, {sum(files.values()) / 1e6:,.0f} MB, to {place}", file=sys.stderr, flush=True)
                with staged(place) as stage:
                    storage.download(url, files, stage)
                    _check(stage, url, manifest)
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror or error}; set --config.data.cache") from None
    for name, size in files.items():
        if not (place / name).is_file() or (place / name).stat().st_size != size:
            raise UserError(f"{place / name} is no copy of {url}/{name}; remove {place}, and it is copied again")
    return str(place)


def _files(url: str, listed: Mapping[str, int], manifest: Manifest) -> dict[str, int]:
    """The files to copy with their sizes: those of the manifest, or all if it is of a version that lists none."""
    if manifest.files is None:
        return dict(listed)
    files = {name: entry["bytes"] for name, entry in manifest.files.items()}
    for name, size in files.items():
        if listed.get(name) != size:
            has = f"{listed[name]:,} bytes" if name in listed else "nothing"
            raise UserError(f"{url}/{name} has {has}, and {MANIFEST} says {size:,}; copy the records there again")
    return files | {MANIFEST: listed[MANIFEST]}


def _check(folder: Path, url: str, manifest: Manifest) -> None:
    for name, entry in (manifest.files or {}).items():
        if _crc32(folder / name) != entry["crc32"]:
            raise UserError(f"{url}/{name} is damaged: its checksum is not that of {MANIFEST}; copy it there again")


def _folder(cache: str) -> Path:
    caches = os.environ.get("XDG_CACHE_HOME", "") or os.path.expanduser("~/.cache")
    return Path(cache or os.path.join(caches, "avmsnet_jax", "records")).absolute()


def _crc32(path: Path) -> str:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"
