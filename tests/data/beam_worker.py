"""A worker process for the tests of Beam; it imports little, because each process does so anew."""

import time
from pathlib import Path
from typing import Any

from avmsnet_jax import beam


def work(folder: Path, number: int) -> None:
    """Does the item 3 after a moment in which the other worker starts, and says who did it."""
    (folder / f"began_{number}").touch()
    while len(list(folder.glob("began_*"))) < 2:
        time.sleep(0.01)

    def do(item: int) -> dict[str, Any]:
        (folder / f"worked_{number}").touch()
        time.sleep(0.3)
        return {"item": item, "by": number}

    beam._work(do, folder / "outcomes", (0, 3))
