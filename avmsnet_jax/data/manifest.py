"""The manifest of prepared records, checked when it is read, because it may come from a stranger."""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from avmsnet_jax import json_file, program
from avmsnet_jax.data import MANIFEST
from avmsnet_jax.errors import UserError

MOST_BYTES = 100_000_000  # of a JSON file beside the records; enough for 200,000 films
REMEDY = "it is damaged or of another version: prepare the data again"
_MOST = 10**8  # of frames of a film, clips of a split, ...
_MOST_PIXELS = 10**8  # of a clip, which bounds the memory for a record


def read_manifest(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a prepared data set; see `avmsnet_jax.data.prepare.prepare`.

    Raises:
      UserError: there is no such data set, or its manifest is damaged.
    """
    if not os.fspath(directory):
        raise UserError(f"no records given; set --config.data.dir to the --output of {program.typed('prepare')}")
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(
            f"there is no folder of records {directory}; prepare one with {program.typed('prepare')} --output"
        )
    try:
        manifest = json_file.read(inside(directory, MANIFEST), REMEDY, most_bytes=MOST_BYTES)
    except FileNotFoundError:
        raise UserError(
            f"{directory} holds no prepared records ({MANIFEST} is missing); prepare it with {program.typed('prepare')}"
        ) from None
    try:
        _check(manifest)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{directory} holds no prepared records: {MANIFEST} is of another version or damaged ({error!r}); "
            "prepare the data again"
        ) from None
    return manifest


def inside(directory: Path, name: str) -> Path:
    """The path of a file or folder of a data set.

    Raises:
      UserError: its name or a link leads out of the data set's folder.
    """
    place = directory / name
    if "\0" in name or not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(directory)):
        raise UserError(
            f"{directory}: {name!r} lies outside this folder, and nothing else is read; put the file itself there"
        )
    return place


def whole(value: Any, least: int = 0, most: int = _MOST) -> int:
    """Returns `value`; raises ValueError unless it is an integer from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]} is no number from {least} to {most}")
    return value


def _check(manifest: Any) -> None:
    """Raises KeyError, ValueError, TypeError or AttributeError if a field that is used is missing or invalid."""
    _texts([manifest["dataset"], manifest["records"]])
    settings = manifest["settings"]
    frames, size = whole(settings["frames"], 1, 10_000), whole(settings["frame_size"], 1, 10_000)
    whole(frames * size**2, 1, _MOST_PIXELS)
    whole(settings.get("spacing", 1), 1)
    _texts(manifest["splits"])
    for split in manifest["splits"].values():
        whole(split["positives"], 0, whole(split["clips"], 1))
        whole(split["videos"], 1)
    if not manifest["splits"]:
        raise ValueError("there are no splits")
    for video in manifest["videos"]:
        _check_video(video)
    for fold in manifest.get("folds", ()):
        _texts(fold)
        for spans in fold.values():
            for start, stop in spans:
                whole(start, 0, whole(stop))
    annotations = manifest.get("annotations", {})
    _texts([*annotations, *annotations.values()])
    for item in [*manifest.get("skipped", ()), *manifest.get("warnings", ())]:
        _texts([*item, *item.values()])
    for entry in manifest.get("files", {}).values():
        whole(entry["bytes"], 0, 2**63)
        _texts([entry["crc32"]])


def _check_video(video: Any) -> None:
    _texts([video["video"]])
    whole(video["frames"], 1)
    if type(video["fps"]) not in (int, float) or not 0 < video["fps"] < math.inf:
        raise ValueError(f"{video['video'][:40]} has no frame rate")
    if type(video["has_sound"]) is not bool:
        raise ValueError(f"{video['video'][:40]} does not say whether it has sound")
    for counts in (video["clips"], video["positives"]):
        _texts(counts)
        for count in counts.values():
            whole(count)


def _texts(values: Iterable[Any]) -> None:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError("a name is no text")
