"""Durations as people write them."""

import re

_UNITS_S = {
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 0.001),
}
_LONGEST = 60  # characters
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_PART = re.compile(rf"({_NUMBER})\s*([a-z]+)\s*")
_CLOCK = re.compile(r"(?:([0-9]{1,4}):)?([0-9]{1,4}):([0-9]{1,2}(?:[.,][0-9]*)?)")


def parse(text: str) -> float:
    """Reads `90`, `90s`, `1.5min`, `1h 2m 3s`, `500ms`, `1:30` or `0:01:05.5`.

    Returns:
      seconds. A plain number may be negative.

    Raises:
      ValueError: the text has another form.
    """
    text = text.strip().lower()
    try:
        return float(text)
    except ValueError:
        pass
    if len(text) > _LONGEST:  # the patterns below take time that grows faster than the text
        raise ValueError("too long for a duration")
    if clock := _CLOCK.fullmatch(text):
        hours, minutes = int(clock[1] or 0), int(clock[2])
        seconds = float(clock[3].replace(",", "."))
        if seconds >= 60 or (clock[1] is not None and minutes >= 60):
            raise ValueError(f"{text!r} has more than 59 minutes or seconds")
        return 3600 * hours + 60 * minutes + seconds
    parts = _PART.findall(text)
    units = [_UNITS_S.get(unit, 0.0) for _, unit in parts]
    falling = all(larger > smaller for larger, smaller in zip(units, [*units[1:], 0.0], strict=True))
    if not parts or not falling or _PART.sub("", text):
        raise ValueError(f"{text!r} is not a duration")
    return sum(float(number) * unit for (number, _), unit in zip(parts, units, strict=True))
