"""Which videos of TVSum or SumMe are for training and which for testing, fold by fold."""

from collections.abc import Collection as Names
from collections.abc import Sequence
from pathlib import Path

from avmsnet_jax import json_file
from avmsnet_jax.errors import UserError

FOLDS = 5
MOST_BYTES = 20_000_000  # of a JSON file about a data set; the field's have 10 kB to 1 MB

Fold = dict[str, tuple[str, ...]]


def find_folds(
    splits: Path | None, files: Sequence[Path], order: Sequence[str], held: Names[str], dataset: str
) -> list[Fold]:
    """Reads the folds from a file, or makes five.

    Args:
      splits: the JSON file; None: the `*split*.json` among `files`, if there is one.
      files: those of the collection.
      order: names of the data set's videos; `video_1` of a JSON file is the first.
      held: names of the available videos; the others are left out of the folds.
      dataset: tvsum or summe, to choose among several files.

    Returns:
      the folds. Without a file, five that share no test video: fold i tests every fifth one from the i-th on.

    Raises:
      UserError: the file is missing or malformed, or there are several.
    """
    splits = splits or _beside(files, dataset)
    if splits:
        folds = read_splits(splits, order)
    else:
        tests = [order[first::FOLDS] for first in range(FOLDS)]
        folds = [{"train": tuple(name for name in order if name not in test), "test": tuple(test)} for test in tests]
    return [{split: tuple(name for name in names if name in held) for split, names in fold.items()} for fold in folds]


def read_splits(path: Path, order: Sequence[str]) -> list[Fold]:
    """Reads a JSON list of `{"train_keys": ["video_1", ...], "test_keys": [...]}`.

    Keys may carry a path before their name, as those of some projects do.

    Raises:
      UserError: the file is missing or has another form, or lists an unknown video, or one twice.
    """
    remedy = 'it holds no splits; write a JSON list of {"train_keys": ["video_1", ...], "test_keys": [...]}'
    try:
        rows = json_file.read(path, remedy, most_bytes=MOST_BYTES)
        listed = [{split: list(row[f"{split}_keys"]) for split in ("train", "test")} for row in rows]
        if not listed:
            raise ValueError
    except FileNotFoundError:
        raise UserError(f"cannot read the splits {path}: there is no such file; check the path") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"cannot take {path}: {remedy}") from None
    names = {f"video_{number}": name for number, name in enumerate(order, start=1)}
    folds = []
    for number, row in enumerate(listed, start=1):
        seen: set[str] = set()
        fold: Fold = {}
        for split, keys in row.items():
            keys = [str(key).rsplit("/", 1)[-1] for key in keys]
            for key in keys:
                if key not in names:
                    raise UserError(
                        f"{path}, split {number}: there is no {key!r}; the keys are video_1 to video_{len(order)}"
                    )
                if key in seen:
                    raise UserError(
                        f"{path}, split {number}: {key} is listed twice; a video is for training or testing"
                    )
                seen.add(key)
            fold[split] = tuple(names[key] for key in keys)
        folds.append(fold)
    return folds


def _beside(files: Sequence[Path], dataset: str) -> Path | None:
    found = [path for path in files if "split" in path.stem.lower() and path.suffix.lower() == ".json"]
    found = [path for path in found if dataset in path.stem.lower()] or found
    if len(found) > 1:
        raise UserError(f"there are several splits, {found[0]} and {found[1]}; choose one with --splits")
    return found[0] if found else None
