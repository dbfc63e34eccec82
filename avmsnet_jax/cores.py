"""How many CPU cores this process may use."""

import os


def count() -> int:
    """Those that it may run on where the system tells, or else all that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
