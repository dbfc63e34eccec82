"""Errors that nobody foresaw: a line for the user, and the traceback in a file for whoever mends it."""

import contextlib
import os
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from avmsnet_jax.errors import UserError, printable

UNEXPECTED = "unexpected error"  # what each report begins with


def report(error: BaseException, folder: Path | None = None, name: str = "avmsnet") -> str:
    """Writes the traceback of an error to a new log file, and says in one line what happened and where that is.

    Args:
      error: as it was caught.
      folder: where the file goes, made if need be; None, or one that cannot be written = the temporary folder.
      name: what was being worked on; the file is called `<name>.error.<something new>.log`.
    """
    return written(describe(error), "".join(traceback.format_exception(error)), folder, name)


def written(what: str, trace: str, folder: Path | None, name: str) -> str:
    """As `report`, of an error that another process described: `what` by `describe`, and its traceback."""
    for wanted in (folder, None) if folder else (None,):
        path = None
        try:
            place = wanted or Path(tempfile.gettempdir())  # raises where there is none
            place.mkdir(parents=True, exist_ok=True)
            prefix = f"{os.fsencode(name)[:100].decode('utf-8', 'ignore')}.error."
            descriptor, path = tempfile.mkstemp(prefix=prefix, suffix=".log", dir=place)
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(trace)
        except OSError:
            if path:  # the disk is full
                with contextlib.suppress(OSError):
                    os.unlink(path)
            continue
        return f"{UNEXPECTED}: {what}; the traceback is in {path}"
    return f"{UNEXPECTED}: {what}; no place could be found for the traceback"


@contextlib.contextmanager
def noted(name: str, failures: dict[str, str]) -> Iterator[None]:
    """Notes an error that nobody foresaw under the name of the film that it concerns, so that the others go on."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        failures[name] = report(error, name=name)


def describe(error: BaseException) -> str:
    """An error's kind and the beginning of what it says, for one line."""
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return printable(text if len(text) <= 200 else text[:197] + "...")
