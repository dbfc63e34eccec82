"""CSV tables that users write."""

import csv
import io
from pathlib import Path

from avmsnet_jax import regular_file
from avmsnet_jax.data.sources import COUNT_SLACK
from avmsnet_jax.errors import UserError

MOST_BYTES = 100_000_000  # a label for each frame of a ten-hour film has below 10 MB
_SHOWN = 60  # characters of a row in a message
_REMEDY = "write it as text, cells divided by commas"


def read_text(path: Path, what: str, remedy: str, form: str = "UTF-8 text") -> str:
    """A file of UTF-8 text, with or without byte order mark.

    Args:
      path: the file.
      what: what it holds, for the message.
      remedy: what the user can do; ends the message.
      form: what the file should be, for the message.

    Raises:
      UserError: the file is missing, no regular file, too large or no such text.
    """
    try:
        regular_file.check(path)
        if path.is_dir():
            reason = "not a file"
        elif path.stat().st_size > MOST_BYTES:
            reason = f"more than {MOST_BYTES / 1e6:.0f} MB"
        else:
            return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        reason = f"not {form}"
    except OSError as error:
        reason = error.strerror or str(error)
    raise UserError(f"cannot read the {what} {path}: {reason}; {remedy}")


def read_rows(path: Path, what: str) -> list[tuple[int, list[str]]]:
    """The rows of a table that are not blank, with the numbers of their lines; cells without space around them.

    Cells are divided by commas, or by semicolons or tabs where the first row holds one. Semicolons come from
    spreadsheets of languages that write 0,5 for 0.5: where they divide, a comma is a decimal point.

    Args:
      path: a table in UTF-8, with or without byte order mark, with any line ends.
      what: what the table holds, for the message.

    Raises:
      UserError: the file is missing or no such table.
    """
    text = read_text(path, what, _REMEDY, "a table in UTF-8")
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((mark for mark in ";\t" if mark in first), ",")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:  # a cell of more than 131,072 characters, or a line end that is none
        raise UserError(f"cannot read the {what} {path}: no table ({error}); {_REMEDY}") from None
    if delimiter == ";":
        rows = [(number, [cell.replace(",", ".") for cell in row]) for number, row in rows]
    return [(number, row) for number, row in rows if any(row)]


def shown(row: list[str]) -> str:
    """A row as messages quote it."""
    text = ",".join(row)
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def read_labels(path: Path, n_frames: int = 0) -> dict[int, int]:
    """Reads `frame,label` rows, labels 0 or 1. A header `frame,label` may come first.

    Args:
      path: the table.
      n_frames: frames of the video, 0 if unknown. Rows for a few more are harmless: tools count differently.

    Returns:
      label by frame number, from 1.

    Raises:
      UserError: the file is missing, a row is something else or far beyond the video, or two rows contradict.
    """
    rows = read_rows(path, "labels")
    if rows and rows[0][1] == ["frame", "label"]:
        rows = rows[1:]
    labels: dict[int, int] = {}
    for number, row in rows:
        place = f"{path}, line {number}"
        try:
            frame, label = map(float, row)
        except ValueError:
            label = -1
        if label not in (0, 1) or not frame.is_integer():
            raise UserError(f"{place}: {shown(row)} is not a frame number, a comma, and 0 or 1")
        if frame < 1:
            raise UserError(f"{place}: there is no frame {frame:.0f}; count the frames from 1")
        if n_frames and frame > n_frames * (1 + COUNT_SLACK):
            raise UserError(f"{place}: frame {frame:.0f} is beyond the video's {n_frames} frames; give its own labels")
        if labels.setdefault(int(frame), int(label)) != label:
            raise UserError(f"{place}: frame {frame:.0f} is labeled {label:.0f}, and otherwise before; keep one row")
    return labels
