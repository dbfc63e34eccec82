"""SMPTE timecode, by which cameras and editing programs number frames: 01:00:00:00."""

import dataclasses
import re
from fractions import Fraction

_TEXT = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})([:;.,])(\d{2,3})")
_SLOW = 25  # frames per second of timecode for films with less than one frame a second

# The frame rates of editing programs.
STANDARD_RATES = (
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
)


@dataclasses.dataclass(frozen=True)
class Timecode:
    """How a film's frames are counted.

    Attributes:
      start: number of the film's first frame.
      base: frames in a second of timecode: the film's rate, rounded.
      drop: whether it is drop-frame timecode, which at 29.97 (59.94) frames a second keeps pace with real time by
        skipping the first two (four) numbers of each minute, except every tenth minute.
    """

    start: int
    base: int
    drop: bool

    def text(self, frame: int, *, start: int | None = None) -> str:
        """The timecode of frame `frame` (from 0) if frame 0 has the number `start` (None = `self.start`)."""
        count = (self.start if start is None else start) + frame
        if self.drop:
            dropped = self.base // 15
            tens, rest = divmod(count, 600 * self.base - 9 * dropped)
            count += 9 * dropped * tens + dropped * (max(rest - dropped, 0) // (60 * self.base - dropped))
        second, frame = divmod(count, self.base)
        mark = ";" if self.drop else ":"
        return f"{second // 3600 % 24:02d}:{second // 60 % 60:02d}:{second % 60:02d}{mark}{frame:02d}"


def read(text: str, rate: Fraction) -> Timecode:
    """Parses the timecode of a film's first frame; text that is no timecode counts as 00:00:00:00.

    Args:
      text: such as `01:00:00:00`, or `01:00:00;00` for drop frame; empty = unknown.
      rate: frames a second.
    """
    base = round(rate) if rate >= 1 else _SLOW
    match = _TEXT.fullmatch(text.strip())
    if not match:
        return Timecode(0, base, drop=False)
    hour, minute, second, frame = (int(match[group]) for group in (1, 2, 3, 5))
    if hour > 23 or minute > 59 or second > 59 or frame >= base:
        return Timecode(0, base, drop=False)
    drop = match[4] != ":" and base % 30 == 0 and rate < base
    minutes = 60 * hour + minute
    left_out = base // 15 * (minutes - minutes // 10) if drop else 0
    return Timecode((60 * minutes + second) * base + frame - left_out, base, drop)
