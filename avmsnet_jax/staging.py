"""Atomic output: a result appears complete or not at all, and a failure leaves nothing behind.

Unfinished work goes to a hidden folder next to its target, `.<name>.<kind>`. Its file `lock` marks the folder as made
by this package and names the process that works in it. Only marked folders are reused or removed, and links are never
followed, so that nothing of the user's, or planted by somebody else, is touched.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from avmsnet_jax import interrupts
from avmsnet_jax.errors import UserError

_LOCK = "lock"
LOCK = ".lock"  # of a locked working directory
_NEW, _OLD = "new", "old"  # in a stage: the folder of the new result, and the result that is replaced
_MARK = b"avmsnet_jax made this, and may remove it.\n"
_OWNER_BYTES = 400  # after the mark: the lock's owner, padded so that it can be rewritten on a full disk
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_TRIES, _QUIET_TRIES, _PAUSE_S = 100, 10, 0.05
_LONGEST = 200  # bytes of a name before a prefix and a suffix are added; file systems allow 255


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yields a path next to `target` to write a file or directory to, which replaces `target` if the block succeeds.

    If the block fails, `target` stays as it was, and parent directories made for it are removed. Remains of a killed
    process with the same target are removed first.

    Raises:
      UserError: the place cannot be written, another process writes to it, or `target` is a link.
    """
    if target.is_symlink():
        raise UserError(f"{target} is a link; remove it, or choose another place")
    try:
        with working_place(target, "stage") as place:
            _clear(place, target)
            try:
                (place / _NEW).mkdir()
                with interrupts.undone(functools.partial(_clear, place, target)):
                    yield place / _NEW / target.name
                if target.is_dir():
                    os.rename(target, place / _OLD)
                os.replace(place / _NEW / target.name, target)
            finally:
                with contextlib.suppress(OSError):  # the next run removes the rest
                    _clear(place, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; choose another place") from error


def recover(target: Path) -> None:
    """Removes the remains of a killed process; restores the old result if the new one had not replaced it yet.

    Raises:
      UserError: another process works there.
      OSError: the place cannot be written.
    """
    if os.path.lexists(_place_of(target, "stage")):
        with working_place(target, "stage") as place:
            _clear(place, target)


@contextlib.contextmanager
def working_place(target: Path, kind: str) -> Iterator[Path]:
    """Yields the folder `.<name>.<kind>` next to `target`, locked, with what an earlier process left in it.

    At the end, the folder and the parent directories made for it are removed if they hold nothing but the lock.

    Raises:
      UserError: another process works there, or the folder is not one that this package made.
      OSError: the place cannot be written.
    """
    place = _place_of(target, kind)
    made = [parent for parent in place.parents if not parent.exists()]
    try:
        for parent in reversed(made):
            parent.mkdir(exist_ok=True)
        lock = _enter(place, target)
        try:
            _check_ours(place)
            with interrupts.undone(functools.partial(_leave, place, made)):
                yield place
        finally:
            _leave(place)
            _release(lock)
    finally:
        _remove_empty([place, *made])  # the place exists if a full disk had no room for its lock


def _place_of(target: Path, kind: str) -> Path:
    return target.with_name(f".{_short(target.name)}.{kind}")


def _leave(place: Path, made: Sequence[Path] = ()) -> None:
    """Removes a working place that this process holds if nothing but the lock is in it, and then empty directories."""
    with contextlib.suppress(OSError):  # the disk may be read-only by now, or the next process already at work there
        if os.listdir(place) == [_LOCK]:
            os.unlink(place / _LOCK)
            place.rmdir()
    _remove_empty(made)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Locks the working directory of a run, which is created if it does not exist.

    Raises:
      UserError: another process has locked it, or it cannot be written.
    """
    path, made = workdir / LOCK, [place for place in (workdir, *workdir.parents) if not place.exists()]
    try:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock = _lock(path, workdir)
        except OSError as error:
            raise UserError(
                f"cannot create {error.filename or workdir}: {error.strerror}; choose another --workdir"
            ) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)
            _release(lock)
    finally:
        _remove_empty(made)


def taken(target: Path) -> bool:
    """Whether `target` exists and is not an empty directory."""
    return os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir()))


def remove(path: Path) -> None:
    """Removes a file, a directory with its contents, or a link (not its target)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_from_under(path: Path) -> None:
    """Removes a directory that other threads still write to, as Orbax's do after the disk was full."""
    quiet = 0
    for _ in range(_TRIES):
        with contextlib.suppress(OSError):
            quiet = 0 if os.path.lexists(path) else quiet + 1
            remove(path)
        if quiet == _QUIET_TRIES:
            return
        time.sleep(_PAUSE_S)


def empty(place: Path) -> None:
    """Removes everything in a working place except its lock, as far as possible."""
    for entry in place.iterdir():
        if entry.name != _LOCK:
            with contextlib.suppress(OSError):
                remove(entry)


def is_private(folder: Path) -> bool:
    """Whether only this user and root can change or replace what is in a folder.

    The folder must belong to the user, must not be a link, and must not be writable by others. The directories above it
    must belong to the user or root, and must not be writable by others unless they are sticky, as /tmp is.
    """
    try:
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return False
        # A link in the path is safe if its own directory and the directories of its target are.
        above = {*folder.absolute().parents, *Path(os.path.realpath(folder)).parents}
        return all(_is_safe(os.lstat(place)) for place in above)
    except OSError:
        return False


def _is_safe(status: os.stat_result) -> bool:
    if status.st_uid not in (0, os.geteuid()):
        return False
    return stat.S_ISLNK(status.st_mode) or not status.st_mode & 0o022 or bool(status.st_mode & stat.S_ISVTX)


def _short(name: str) -> str:
    """`name`; if it is long, its beginning and a digest, so that a prefix and a suffix can be added."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST:
        return name
    return encoded[: _LONGEST // 2].decode("utf-8", "ignore") + hashlib.sha256(encoded).hexdigest()[:16]


def _clear(place: Path, target: Path) -> None:
    """Empties a stage; first restores the old result if no new one has replaced it."""
    if (place / _OLD).exists() and not os.path.lexists(target):
        os.rename(place / _OLD, target)
    empty(place)


def _enter(place: Path, target: Path) -> int:
    """Creates a working place, or takes over the one that an earlier process left, and locks it. Returns the lock."""
    while True:
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o700)
        try:
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                raise _not_ours(place, "is no folder")
            found = os.listdir(place)
            # A process that is killed right at its start leaves an empty folder, or only an empty lock.
            if found and found != [_LOCK] and not _is_marked(place / _LOCK):
                raise _not_ours(place, "was not made by this program")
            return _lock(place / _LOCK, target)
        except FileNotFoundError:  # the process that held it has just removed it
            continue


def _check_ours(place: Path) -> None:
    """Raises UserError if a working place contains anything that this package would not put there."""
    owners = {os.geteuid(), place.parent.stat().st_uid}  # network file systems may assign one owner to all files
    if place.stat().st_uid not in owners:
        raise _not_ours(place, "belongs to another user")
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            path = Path(folder, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                raise _not_ours(place, f"holds a link, {path.relative_to(place)}")
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                raise _not_ours(place, f"holds a file that has another name, {path.relative_to(place)}")
            if status.st_uid not in owners:
                raise _not_ours(place, f"holds a file of another user, {path.relative_to(place)}")


def _not_ours(path: Path, why: str) -> UserError:
    return UserError(f"{path} is needed for unfinished work, but {why}; move it away, or choose another output")


def _is_marked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) if _is_file(path) else -1
    if descriptor < 0:
        return False
    try:
        return os.pread(descriptor, len(_MARK), 0) == _MARK
    finally:
        os.close(descriptor)


def _is_file(path: Path) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _lock(path: Path, what: Path) -> int:
    """Locks a lock file, created if need be, until the process ends. Returns its descriptor.

    flock's locks end with their process and work across hosts on network file systems. On a file system without flock,
    the file names the owner: the lock counts while that process lives, and always if it belongs to another host.

    Raises:
      UserError: another process has locked it, or the file was not made by this package.
    """
    while True:
        if os.path.lexists(path) and not _is_file(path):
            raise _not_ours(path, "is no plain file")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            content = os.pread(lock, len(_MARK) + _OWNER_BYTES, 0)
            if content and not content.startswith(_MARK):
                raise _not_ours(path, "was not made by this program")
            owner = content[len(_MARK) :].decode("utf-8", "replace").strip()
            if not _take(lock, owner):
                by = owner or "another process"
                raise UserError(f"{what} is in use by {by}; wait until that ends, or choose another place")
            # The previous holder may have removed the file after it was opened here; a removed file locks nothing.
            if _is_file(path) and os.path.samestat(os.fstat(lock), os.lstat(path)):
                _mark(lock, path, new=not content)
                return lock
            os.close(lock)
        except BaseException:
            os.close(lock)
            raise


def _take(lock: int, owner: str) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return not owner or _has_ended(owner)
    return True


def _has_ended(owner: str) -> bool:
    """Whether `owner`, as `_mark` writes it, was a process of this host that has ended."""
    *_, number, host = owner.replace("(", " ").replace(")", " ").replace(" on ", " ").split()
    if host != socket.gethostname() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return int(number) == os.getpid()


def _mark(lock: int, path: Path, *, new: bool) -> None:
    if new:
        try:
            os.pwrite(lock, _MARK + b" " * _OWNER_BYTES, 0)
        except OSError:
            path.unlink()
            raise
    _write_owner(lock, f"{os.path.basename(sys.argv[0])} (process {os.getpid()} on {socket.gethostname()})")


def _release(lock: int) -> None:
    _write_owner(lock, "")
    os.close(lock)


def _write_owner(lock: int, owner: str) -> None:
    text = owner.encode("utf-8", "replace")[: _OWNER_BYTES - 1]
    with contextlib.suppress(OSError):
        os.pwrite(lock, text.ljust(_OWNER_BYTES - 1) + b"\n", len(_MARK))
