"""Writing so that a failure leaves nothing behind, and a reader never meets half a result."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from avmsnet_jax.errors import UserError


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yields a path beside `target` to write a file or directory to; it becomes `target` when the block ends well.

    Whatever `target` was is replaced. If the block fails, `target` stays as it was, and missing parent directories
    that were made for it are removed again.

    Raises:
      UserError: the place cannot be written.
    """
    made: list[Path] = []
    stage: Path | None = None
    try:
        for parent in [target.parent, *target.parent.parents]:
            if parent.exists():
                break
            made.append(parent)
        for parent in reversed(made):
            parent.mkdir()
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield stage / target.name
        if target.is_dir():
            before = stage / f"{target.name}.before"
            target.rename(before)
            try:
                os.replace(stage / target.name, target)
            except OSError:
                before.rename(target)
                raise
        else:
            os.replace(stage / target.name, target)
        made.clear()
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; choose another place") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()


def taken(target: Path) -> bool:
    """Whether there is something at `target` that a result would replace: anything but an empty directory."""
    return target.exists() and not (target.is_dir() and not any(target.iterdir()))
