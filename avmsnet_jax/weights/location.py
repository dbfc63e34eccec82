"""Where a checkpoint is: a directory itself, or a step in a training run, on disk or on a store."""

import os
import re
from pathlib import Path

from avmsnet_jax import json_file, program, storage
from avmsnet_jax.errors import UserError
from avmsnet_jax.regular_file import regular_files

MODEL, CONFIG, PASSENGERS, VALIDATION = "model", "config", "passengers", "validation"
MOST_CONFIG_BYTES = 100_000  # written: 300 bytes
_COPIED = {MODEL, CONFIG, PASSENGERS, VALIDATION, "position"}  # from a store: what others than the run itself read


def find(directory: str | os.PathLike[str]) -> Path:
    """The checkpoint that `directory` refers to: itself, or a step in it or in its `checkpoints`.

    Of several steps, the one with the best average precision on held-out films, or the latest if none was validated.

    Of a place on a store, it is a local copy, which is removed when the process ends.

    Raises:
      UserError: there is none.
    """
    if storage.is_remote(directory):
        return _copied(os.fspath(directory))
    top = Path(directory).absolute()
    if os.path.isfile(top):
        raise UserError(
            f"no checkpoint at {directory}, which is a file; make one of it first: "
            f"{program.typed('convert')} --source={directory} --output=DIR"
        )
    if not os.path.isdir(top):
        raise UserError(
            f"no checkpoint at {directory}: no such directory; give one that {program.typed('train')} or "
            f"{program.typed('convert')} left"
        )
    try:
        found = _found(top)
    except OSError as error:
        raise UserError(f"cannot read {directory}: {error.strerror}; make it readable") from None
    if found is None:
        raise UserError(
            f"no checkpoint in {directory}; give a directory that {program.typed('train')} or "
            f"{program.typed('convert')} left"
        )
    if not found.resolve().is_relative_to(top.resolve()):
        raise UserError(f"{found} is a link out of {directory}; give {found.resolve()} itself if you trust it")
    return found


def check(*directories: str) -> None:
    """Raises UserError for the first directory that holds no checkpoint; places on a store are not asked."""
    for directory in directories:
        if not storage.is_remote(directory):
            find(directory)


def _copied(url: str) -> Path:
    """As `find`, from a store: copies the step that is chosen, without the state of the optimizer."""
    run, within = re.fullmatch(r"(.+?)(?:/(checkpoints(?:/[0-9]+)?))?/*", url).groups(default="")  # type: ignore[union-attr]
    files = storage.whole(storage.listed(run))
    folder = storage.kept_copy(run)
    small = {
        name: size
        for name, size in files.items()
        if size <= MOST_CONFIG_BYTES and re.fullmatch(rf"config\.json|(.*/)?({CONFIG}|{VALIDATION})/metadata", name)
    }
    storage.download(run, small, folder)
    for name in files:  # what is there, for `_found` to choose from
        if f"/{MODEL}/" in f"/{name}":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
    found = _found(folder / within)
    if found is None:
        raise UserError(
            f"no checkpoint in {url}; give a place that {program.typed('train')} or {program.typed('convert')} wrote to"
        )
    beside = found.relative_to(folder)
    chosen = {str(beside / item) for item in _COPIED}
    rest = {
        name: size
        for name, size in files.items()
        if name not in small and any(name.startswith(f"{item}/") for item in chosen)
    }
    storage.download(run, rest, folder)
    return found


def _found(top: Path) -> Path | None:
    for place in (top, top / "checkpoints"):
        if (place / MODEL).is_dir() and (place / CONFIG).is_dir():
            return place
        if not place.is_dir():
            continue
        step = best_step(place) or max(steps_in(place), default=None)
        if step is not None:
            return place / str(step)
    return None


def steps_in(directory: Path) -> list[int]:
    """The steps in a training run's `checkpoints` that contain a model."""
    if not directory.is_dir():
        return []
    return [
        int(step.name)
        for step in directory.iterdir()
        if re.fullmatch(r"0|[1-9][0-9]*", step.name) and (step / MODEL).is_dir()
    ]


def best_step(directory: Path) -> int | None:
    """The step with the best average precision on held-out films, the earliest of equals; None without validation."""
    found = {step: validation_of(directory / str(step)) for step in sorted(steps_in(directory))}
    validated = {step: precision for step, precision in found.items() if precision is not None}
    return max(validated, key=lambda step: validated[step], default=None)


def validation_of(checkpoint: Path) -> float | None:
    """The average precision of a step on held-out films; None if it was not validated, or the file is unreadable."""
    source = checkpoint / VALIDATION / "metadata"
    try:
        regular_files(checkpoint / VALIDATION)
        precision = json_file.read(source, "train it again", most_bytes=MOST_CONFIG_BYTES)["average_precision"]
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    return float(precision) if type(precision) in (float, int) and 0 <= precision <= 1 else None
