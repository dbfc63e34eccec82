"""Progress as JSON lines, for a parent process that shows it."""

import io
import json
from typing import Any

from tqdm import tqdm

LINES = "AVMSNET_PROGRESS_LINES"  # environment variable: print lines instead of a bar


class ProgressLines(tqdm):
    """A progress bar that prints JSON lines, `{"doing": ..., "share": ...}`, at most ten a second."""

    def __init__(self, **options: Any):
        super().__init__(**options, file=io.StringIO())

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Prints one line."""
        share = min(self.n / self.total, 1.0) if self.total else 0.0
        print(json.dumps({"doing": self.desc.removesuffix(": "), "share": round(share, 4)}), flush=True)
