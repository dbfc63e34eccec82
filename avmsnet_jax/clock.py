"""Times as h:mm:ss."""


def clock(seconds: float) -> str:
    """Formats seconds, rounded down, as 1:02:03, or as 2:03 within the first hour."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
