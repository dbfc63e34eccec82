"""CSV tables that users write."""

import csv
from pathlib import Path

from avmsnet_jax.data.sources import COUNT_SLACK
from avmsnet_jax.errors import UserError


def read_rows(path: Path, what: str) -> list[tuple[int, list[str]]]:
    """The rows of a table that are not blank, with the numbers of their lines; cells without space around them.

    Args:
      path: a table in UTF-8, with or without byte order mark, with any line ends.
      what: what the table holds, for the message.

    Raises:
      UserError: the file is missing or no such table.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a table in UTF-8"
        raise UserError(f"cannot read the {what} {path}: {reason}; write it as text, cells divided by commas") from None
    return [(number, row) for number, row in rows if any(row)]


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
            raise UserError(f"{place}: {','.join(row)!r} is not a frame number, a comma, and 0 or 1")
        if frame < 1:
            raise UserError(f"{place}: there is no frame {frame:.0f}; count the frames from 1")
        if n_frames and frame > n_frames * (1 + COUNT_SLACK):
            raise UserError(f"{place}: frame {frame:.0f} is beyond the video's {n_frames} frames; give its own labels")
        if labels.setdefault(int(frame), int(label)) != label:
            raise UserError(f"{place}: frame {frame:.0f} is labelled {label:.0f}, and otherwise before; keep one row")
    return labels
