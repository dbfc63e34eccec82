"""Times as people read them."""


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 within the first hour; the second that has begun, not the nearest."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
