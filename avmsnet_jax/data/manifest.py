"""The manifest of prepared records, checked when it is read, because it may come from a stranger."""

import dataclasses
import itertools
import math
import os
from pathlib import Path
from typing import Any

from avmsnet_jax import json_file, program
from avmsnet_jax.data import MANIFEST
from avmsnet_jax.errors import UserError

MOST_BYTES = 100_000_000  # of a JSON file beside the records; enough for 200,000 films
REMEDY = "it is damaged or of another version: prepare the data again"
_MOST = 10**8  # of frames of a film, clips of a split, ...
_MOST_PIXELS = 10**8  # of a clip, which bounds the memory for a record


@dataclasses.dataclass(frozen=True)
class Split:
    """The films, clips and key clips of a split."""

    videos: int
    clips: int
    positives: int


@dataclasses.dataclass(frozen=True)
class Film:
    """A film that records were made of.

    Attributes:
      name: its name.
      frames: frames that were decoded.
      fps: frames a second.
      has_sound: whether it has an audio track.
      clips: clips by split.
      positives: key clips by split.
    """

    name: str
    frames: int
    fps: float
    has_sound: bool
    clips: dict[str, int]
    positives: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared data set says of itself, as far as it is used; `data.prepare` writes it.

    Attributes:
      dataset: the kind of the collection, such as `tvsum`.
      records: the folder of the shards within the data set's.
      frames: frames of a clip.
      frame_size: height and width of a clip's frames, pixels.
      spacing: frames between the centers of successive clips; None in those of older versions.
      splits: by name.
      films: in the order of their records.
      folds: for each division of the data set by split, spans of records of the split `whole`; often none.
      annotations: files of users' annotations by film; often none.
      skipped: the name of each film that was left out, and why.
      files: `bytes` and `crc32` of each file; None in those of older versions.
    """

    dataset: str
    records: str
    frames: int
    frame_size: int
    spacing: int | None
    splits: dict[str, Split]
    films: list[Film]
    folds: list[dict[str, list[list[int]]]]
    annotations: dict[str, str]
    skipped: list[tuple[str, str]]
    files: dict[str, dict[str, Any]] | None


def read_manifest(directory: str | os.PathLike[str]) -> Manifest:
    """The manifest of a prepared data set.

    Raises:
      UserError: there is no such data set, or its manifest is damaged.
    """
    if not os.fspath(directory):
        raise UserError(f"no records given; set --config.data.dir to the --output of {program.typed('prepare')}")
    directory = Path(directory)
    if directory.is_file():
        raise UserError(f"{directory} is a file; give the folder that holds it")
    if not directory.is_dir():
        raise UserError(
            f"there is no folder of records {directory}; prepare one with {program.typed('prepare')} --output"
        )
    try:
        values = json_file.read(inside(directory, MANIFEST), REMEDY, most_bytes=MOST_BYTES)
    except FileNotFoundError:
        raise UserError(
            f"{directory} holds no prepared records ({MANIFEST} is missing); prepare it with {program.typed('prepare')}"
        ) from None
    try:
        return _parsed(values)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{directory} holds no prepared records: {MANIFEST} is of another version or damaged ({error!r}); "
            "prepare the data again"
        ) from None


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


def _parsed(values: Any) -> Manifest:
    """Raises KeyError, ValueError, TypeError or AttributeError if a field that is used is missing or invalid."""
    settings = values["settings"]
    frames, size = whole(settings["frames"], 1, 10_000), whole(settings["frame_size"], 1, 10_000)
    whole(frames * size**2, 1, _MOST_PIXELS)
    spacing = settings.get("spacing")
    splits, folds, files = _texts(values["splits"]), values.get("folds", []), values.get("files")
    if not splits:
        raise ValueError("there are no splits")
    for fold in folds:
        for start, stop in itertools.chain.from_iterable(_texts(fold).values()):
            whole(start, 0, whole(stop))
    for entry in (files or {}).values():
        whole(entry["bytes"], 0, 2**63)
        _text(entry["crc32"])
    return Manifest(
        dataset=_text(values["dataset"]),
        records=_text(values["records"]),
        frames=frames,
        frame_size=size,
        spacing=None if spacing is None else whole(spacing, 1),
        splits={name: _split(split) for name, split in splits.items()},
        films=[_film(film) for film in values["videos"]],
        folds=folds,
        annotations={name: _text(file) for name, file in _texts(values.get("annotations", {})).items()},
        skipped=[(_text(item["video"]), _text(item["reason"])) for item in values.get("skipped", [])],
        files=files,
    )


def _split(values: Any) -> Split:
    clips = whole(values["clips"], 1)
    return Split(whole(values["videos"], 1), clips, whole(values["positives"], 0, clips))


def _film(values: Any) -> Film:
    name, fps, has_sound = _text(values["video"]), values["fps"], values["has_sound"]
    if type(fps) not in (int, float) or not 0 < fps < math.inf:
        raise ValueError(f"{name[:40]} has no frame rate")
    if type(has_sound) is not bool:
        raise ValueError(f"{name[:40]} does not say whether it has sound")
    clips, positives = _texts(values["clips"]), _texts(values["positives"])
    for count in (*clips.values(), *positives.values()):
        whole(count)
    return Film(name, whole(values["frames"], 1), fps, has_sound, clips, positives)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a name is no text")
    return value


def _texts(values: Any) -> dict[str, Any]:
    """A dictionary by names."""
    if not isinstance(values, dict):
        raise TypeError(f"{str(values)[:40]} is no table")
    return {_text(name): value for name, value in values.items()}
