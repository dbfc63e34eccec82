"""Output of a run: a progress bar on a terminal, lines otherwise. Of several processes only the first prints."""

import sys
import time

from tqdm import tqdm

from avmsnet_jax import hosts

_QUIET_S = 60  # without a bar, a line is printed at least this often


class Progress:
    """The progress bar of a run from step `first` to step `last`, and lines above it."""

    def __init__(self, first: int, last: int):
        self._bar = tqdm(
            total=last,
            initial=first,
            bar_format="{percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}{postfix}]",
            dynamic_ncols=True,
            disable=not (hosts.is_first() and sys.stderr.isatty()),
        )
        self._said = time.perf_counter()

    def reach(self, step: int, told: str = "") -> None:
        """Moves the bar to `step`, and shows `told` after it."""
        self._bar.update(step - self._bar.n)
        if told:
            self._bar.set_postfix_str(told)

    @property
    def is_quiet(self) -> bool:
        """Whether there is no bar, and nothing was said for a minute."""
        return self._bar.disable and time.perf_counter() - self._said > _QUIET_S

    def say(self, text: str) -> None:
        """Prints a line."""
        if hosts.is_first():
            self._bar.write(text)
            sys.stdout.flush()
        self._said = time.perf_counter()

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def say(text: str) -> None:
    """Prints a line before or after training."""
    if hosts.is_first():
        print(text, flush=True)
