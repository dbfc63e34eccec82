"""Unexpected errors: one line for the user, and the traceback in a file for a bug report."""

import contextlib
import os
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from avmsnet_jax.errors import UserError, printable

UNEXPECTED = "unexpected error"  # the beginning of each report


def report(error: BaseException, folder: Path | None = None, name: str = "avmsnet") -> str:
    """Writes the traceback of an error to a new log file, and returns a line that names the error and the file.

    Args:
      error: the exception.
      folder: the folder of the file, created if missing; None, or not writable = the temporary folder.
      name: what was being processed; the file is called `<name>.error.<random>.log`.
    """
    return written(describe(error), "".join(traceback.format_exception(error)), folder, name)


def written(what: str, trace: str, folder: Path | None, name: str) -> str:
    """`report` for an error in another process, given by its description (see `describe`) and its traceback."""
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
    """Adds an unexpected error to `failures` under a film's name, so that the other films are still processed."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        failures[name] = report(error, name=name)


def describe(error: BaseException) -> str:
    """An exception's type and the beginning of its message, on one line."""
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return printable(text if len(text) <= 200 else text[:197] + "...")
