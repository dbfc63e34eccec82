"""Train-test leakage: whether the run that wrote a checkpoint was trained on the videos that are tested."""

from collections.abc import Sequence
from pathlib import Path

from avmsnet_jax import config as config_lib
from avmsnet_jax import json_file, storage
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.data.cache import local_records
from avmsnet_jax.data.sources.folds import Fold
from avmsnet_jax.errors import UserError, few
from avmsnet_jax.evaluation import annotations

SEEN = (
    "The network was trained on clips of this split, so the figures say how well it remembers them, not how it does on "
    "new films."
)
_MAYBE_SEEN = (
    "Networks are trained on this split. The checkpoint does not say what it was trained on; if on these records, the "
    "figures say nothing about new films."
)


def note(config: Config, found: Path, fold: int, split: str) -> tuple[bool, str]:
    """Whether the run that wrote a checkpoint was trained on clips of a split, and a note on it for the report.

    Args:
      config: `data.dir` names the tested records.
      found: the checkpoint, as `location.find` gives it.
      fold: which of the records' divisions is tested.
      split: the part that is tested.

    Returns:
      whether it was certainly trained on some of them, and a note, which may be empty.

    Raises:
      UserError: the tested part is not the run's training split, but shares videos with it.
    """
    run = _run(found)
    if run is None:
        return False, _MAYBE_SEEN if split in ("train", "whole") else ""
    if not _same_records(config, run, found):
        return False, ""
    if run.data.train_split in (split, "whole"):
        return True, SEEN
    folds = annotations.folds_of_records(Path(local_records(config.data)))
    if fold < len(folds):
        _check_apart(run, found, folds, fold, split)
    return False, ""


def _run(found: Path) -> Config | None:
    """The configuration of the run that wrote a checkpoint; None for a converted checkpoint."""
    path = found.parent.parent / "config.json"
    if found.parent.name != "checkpoints":
        return None
    try:
        return config_lib.load_json(path, "give the folder of a training run")
    except FileNotFoundError:
        return None


def _same_records(config: Config, run: Config, found: Path) -> bool:
    """Whether a run was trained on the records of `config`, even if they have moved since."""
    if run.data.dir == config.data.dir or Path(run.data.dir).resolve() == Path(config.data.dir).resolve():
        return True
    try:
        position = json_file.read(found / "position" / "metadata", "", most_bytes=100_000)
        whole = pipeline.open_split(local_records(config.data), run.data.train_split, None, run.data.fold)
        records, _ = pipeline.hold_out(whole, run.data.validation_fraction, run.train.seed)
    except (OSError, ValueError, UserError):  # the checkpoint or the records do not tell
        return False
    return isinstance(position, dict) and position.get("records") == records.identity


def _check_apart(run: Config, found: Path, folds: Sequence[Fold], fold: int, split: str) -> None:
    """Raises UserError if the run was trained on videos of the tested part."""
    trained = folds[run.data.fold].get(run.data.train_split, ()) if run.data.fold < len(folds) else ()
    held = folds[fold].get(split, ()) if split != "whole" else [name for part in folds for name in part["test"]]
    if seen := sorted({*trained} & {*held}):
        raise UserError(
            f"{storage.shown(found)} was trained on fold {run.data.fold}, with {few(seen)} in it, which "
            "would be tested; "
            f"set --config.data.fold={run.data.fold}, or give a checkpoint for each fold"
        )
