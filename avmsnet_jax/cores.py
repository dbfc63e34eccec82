"""How many CPU cores this process may use."""

import os


def count() -> int:
    """The cores in its affinity mask, or all cores if the system has no such mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
