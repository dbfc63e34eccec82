"""Reads JSON files, which may be hostile or damaged."""

import json
from pathlib import Path
from typing import Any

from avmsnet_jax import regular_file
from avmsnet_jax.errors import UserError

MOST_BYTES = 500_000_000  # the largest score file of a public benchmark is below 50 MB


def read(path: Path, remedy: str, *, most_bytes: int = MOST_BYTES) -> Any:
    """Reads a JSON file, with or without a byte order mark.

    Args:
      path: the file.
      remedy: what the user can do about a file that cannot be read; ends each message.
      most_bytes: a larger file is refused before it is read.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: the file is no regular file, cannot be read, is too large, too deeply nested, is not UTF-8 or no
        JSON, or names a key twice in one object.
    """
    try:
        regular_file.check(path)
        size = path.stat().st_size
        if size > most_bytes:
            raise UserError(f"{path} has {size / 1e6:,.0f} MB; at most {most_bytes / 1e6:,.0f} MB are read; {remedy}")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; {remedy}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from None
    return parse(text, str(path), remedy)


def parse(text: str, source: str, remedy: str) -> Any:
    """Parses JSON text; `source` names it in messages. See `read`.

    Raises:
      UserError: as `read`.
    """
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, source, remedy))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{source} is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); {remedy}"
        ) from None
    except RecursionError:
        raise UserError(f"{source} is nested too deeply; {remedy}") from None
    except ValueError:  # a number of more digits than Python converts
        raise UserError(f"{source} holds a number of thousands of digits; {remedy}") from None


def _unique(pairs: list[tuple[str, Any]], source: str, remedy: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"{source} names {name!r} twice in one object; {remedy}")
        found[name] = value
    return found
