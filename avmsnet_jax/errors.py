"""The exception for mistakes that the user can correct."""

import unicodedata

_LONGEST = 1200  # characters of a message


class UserError(Exception):
    """A mistake in the input: a missing file, a broken film, an unknown configuration field.

    The message is one line that names the file or field and what to do about it. Commands print it
    on standard error without a traceback and exit with status 2; see `avmsnet_jax.command_line`.
    """

    def __init__(self, message: str):
        line = printable(" ".join(message.split()))
        if len(line) > _LONGEST:  # a quoted file is long: keep the name at the start and the remedy at the end
            line = f"{line[: 3 * _LONGEST // 4]} … {line[-_LONGEST // 4 :]}"
        super().__init__(line)


def printable(text: str) -> str:
    """Text that is safe on a terminal and in a line-based file.

    File names may hold anything. Control characters (escape sequences, line breaks), invisible formatting
    characters (which can reverse what a reader sees) and undecodable bytes are replaced by their Python escapes.
    """
    return "".join(_escaped(letter) if unicodedata.category(letter) in _UNSAFE else letter for letter in text)


def printable_lines(text: str) -> str:
    """`printable` for several lines, such as a table with names of films."""
    return "\n".join(map(printable, text.split("\n")))


def few(things: list[str]) -> str:
    """The first three of `things` and the number of the others, in one line."""
    more = f" and {len(things) - 3} more" if len(things) > 3 else ""
    return "; ".join(thing if len(thing) <= 120 else thing[:117] + "..." for thing in things[:3]) + more


def brief(error: BaseException) -> str:
    """A library's error message, shortened to one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format, surrogate, line and paragraph separator
_JOINERS = {"\u200c", "\u200d"}  # format characters that Persian, Indic scripts and emoji are spelled with


def _escaped(letter: str) -> str:
    if letter in _JOINERS:
        return letter
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # how os.fsdecode stores the undecodable byte code - 0xDC00
        code -= 0xDC00
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
