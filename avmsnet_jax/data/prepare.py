"""Prepares a collection of films as a directory of records, whole or not at all; interrupted work is resumed."""

import contextlib
import errno
import functools
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from avmsnet_jax import interrupts
from avmsnet_jax.config import ModelConfig
from avmsnet_jax.data import MANIFEST, source_folder
from avmsnet_jax.data.cache import checksums
from avmsnet_jax.data.film import software
from avmsnet_jax.data.records import ClipRecords, ClipsConfig, Gaze, Movie50, Movies, Summe, Tvsum
from avmsnet_jax.data.sources import SPLITS
from avmsnet_jax.data.sources.gaze import Setting
from avmsnet_jax.data.sources.movies import Elsewhere
from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import empty, remove, taken, working_place

BUILDERS: dict[str, type[ClipRecords]] = {
    "gaze": Gaze,
    "movie50": Movie50,
    "movies": Movies,
    "summe": Summe,
    "tvsum": Tvsum,
}


def prepare(
    dataset: str,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    frames: int = 16,
    frame_size: int = 112,
    spacing: int = 25,
    test_fraction: float = 0.3,
    splits: str | os.PathLike[str] | None = None,
    workers: int = 1,
    strict: bool = False,
    beam_options: Sequence[str] | None = None,
    elsewhere: Elsewhere | None = None,
    gaze: Setting | None = None,
    labels_out: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Cuts a collection into clips and writes them as sharded records.

    The work is done next to `output`, in `.<name>.partial`, and moved to `output` when it is complete. After a failure
    or kill, finished films stay there, and the same call continues. The output is byte-identical regardless of
    interruptions.

    Args:
      dataset: movies (a folder of films), movie50 (the published layout), tvsum (as downloaded, or in the published
        layout), summe (as downloaded) or gaze (a folder of films with FILM.gaze/ beside each).
      source: the collection.
      output: the directory to create; it may exist if empty.
      frames: frames of a clip, a multiple of 8.
      frame_size: height and width of a frame, a multiple of 16, pixels.
      spacing: frames from one clip to the next.
      test_fraction: share of the test split of `movies`, 0 <= test_fraction < 1.
      splits: a JSON file of the folds of `tvsum` or `summe`; None = the source's own.
      workers: films read in parallel, each in its own process; 1 = in this process.
      strict: whether a skipped film is an error.
      beam_options: options of an Apache Beam pipeline that does the work instead, as `--name=value`; see `beam`.
      elsewhere: for the data set movies, gives the key shots of films that have no table beside them.
      gaze: for the data set gaze, how it was recorded; None = taken from the files.
      labels_out: for the data set gaze, a folder for tables of the labels and the concentration curve of each film.

    Returns:
      the manifest, as written to `output`: what was read, and what was skipped and why.

    Raises:
      UserError: an argument is invalid, `output` exists or is being written, the disk is full, or nothing was readable.
      KeyboardInterrupt: with a message that says what is kept.
    """
    source, output = Path(source), Path(output)
    config = _config(frames, frame_size, spacing, test_fraction, splits)
    _check(dataset, source, config, workers)
    _check_belongs(dataset, elsewhere, gaze, labels_out)
    with _working_place(output) as place:
        with _quiet_tfds():
            builder = BUILDERS[dataset](data_dir=place / "set", config=config, file_format="array_record")
            builder.place, builder.workers, builder.strict = place, workers, strict
            builder.beam_options = beam_options
            _hand_over(builder, elsewhere, gaze, labels_out)
            manual = tfds.download.DownloadConfig(manual_dir=source, try_download_gcs=False)
            builder.download_and_prepare(download_config=manual)
        return _complete(place, output, dataset, source, config, builder)


def _check_belongs(
    dataset: str, elsewhere: Elsewhere | None, gaze: Setting | None, labels_out: str | os.PathLike[str] | None
) -> None:
    """Raises UserError for an argument that is for another data set."""
    if (gaze is not None or labels_out is not None) and dataset != "gaze":
        raise UserError(f"--gaze_…, --key_share and --labels_out are for gaze; leave them out for {dataset}")
    if elsewhere is not None and dataset != "movies":
        raise UserError(f"key shots from elsewhere are for movies; leave them out for {dataset}")


def _hand_over(
    builder: ClipRecords, elsewhere: Elsewhere | None, gaze: Setting | None, labels_out: str | os.PathLike[str] | None
) -> None:
    """Sets the attributes of a builder that only its data set has."""
    if isinstance(builder, Movies) and elsewhere is not None:
        builder.elsewhere = elsewhere
    if isinstance(builder, Gaze):
        builder.setting = gaze or Setting()
        builder.labels_out = None if labels_out is None else Path(labels_out)


def _complete(
    place: Path, output: Path, dataset: str, source: Path, config: ClipsConfig, builder: ClipRecords
) -> dict[str, Any]:
    """Moves the shards into the data set, writes its manifest, and moves it to `output`. Returns the manifest."""
    remove(place / "set" / "downloads")  # made by TFDS, unused
    for shard in (place / "shards").iterdir():  # only now, because on failure TFDS removes its folder with all contents
        os.replace(shard, Path(builder.data_dir) / shard.name)
    manifest = _manifest(dataset, source, config, builder, place / "set")
    (place / "set" / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(place / "set", output)
    return manifest


def _check(dataset: str, source: Path, config: ClipsConfig, workers: int) -> None:
    """Raises UserError for an invalid argument of `prepare`."""
    try:
        ModelConfig(frames=config.frames, frame_size=config.frame_size)  # raises for clips that no network can take
    except UserError as error:
        raise UserError(str(error).replace("model.", "--")) from None
    if config.spacing < 1:
        raise UserError(f"--spacing is {config.spacing}; it must be at least 1 frame")
    if workers < 1:
        raise UserError(f"--workers is {workers}; it must be at least 1")
    if config.splits and dataset not in ("summe", "tvsum"):
        raise UserError(f"--splits is for summe and tvsum; leave it out for {dataset}")
    source_folder.check(source)


@contextlib.contextmanager
def _working_place(output: Path) -> Iterator[Path]:
    """Yields the working folder next to `output`, locked. If the block fails, finished films stay in it."""
    output = Path(os.path.abspath(output))
    try:
        _check_free(output)
        with working_place(output, "partial") as place:
            kept = ""
            try:
                _check_free(output)  # an earlier run may have finished meanwhile
                _tidy(place)
                with interrupts.undone(functools.partial(_abandon, place)):
                    yield place
            except BaseException as error:
                _tidy(place)
                kept = _kept(place)
                if isinstance(error, KeyboardInterrupt) and kept:
                    raise KeyboardInterrupt(kept) from None
                if isinstance(error, UserError) and kept:
                    raise UserError(f"{error}; {kept}") from error
                if isinstance(error, OSError):
                    what = error.strerror or error
                    full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(what)
                    remedy = (
                        kept + " once there is room" * full if kept else "choose a folder that is writable and has room"
                    )
                    raise UserError(f"cannot write {output}: {what}; {remedy}") from error
                raise
            finally:
                if not kept:
                    empty(place)
    except OSError as error:
        what = error.strerror or error
        raise UserError(f"cannot write {output}: {what}; choose a folder that is writable and has room") from error


def _check_free(output: Path) -> None:
    if output.is_file():
        raise UserError(f"--output={output} is a file; give a folder")
    if taken(output):
        raise UserError(f"{output} exists already; remove it, or choose another --output")
    if output.is_symlink() or os.path.ismount(output):  # the result is renamed to it
        raise UserError(f"{output} is a link or a mounted place; choose a folder inside it as --output")


def _tidy(place: Path) -> None:
    """Moves shards back from an incomplete result, and removes unfinished files."""
    for shard in (place / "set").rglob("*.array_record*"):
        os.replace(shard, place / "shards" / shard.name)
    for unfinished in [place / "set", *place.glob(".*"), *place.glob("*/.*")]:
        remove(unfinished)


def _kept(place: Path) -> str:
    """A message about the finished films in a working folder; empty if there are none."""
    films = len(list((place / "films").glob("*/done.json")))
    return f"{films} finished film{'s are' if films > 1 else ' is'} kept: the same command goes on" if films else ""


def _abandon(place: Path) -> str:
    _tidy(place)
    kept = _kept(place)
    if not kept:
        empty(place)
    return kept


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Silences TFDS's messages about a download, as nothing is downloaded."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _config(
    frames: int, frame_size: int, spacing: int, test_fraction: float, splits: str | os.PathLike[str] | None
) -> ClipsConfig:
    if not 0 <= test_fraction < 1:
        raise UserError(f"--test_fraction is {test_fraction}; it must be at least 0 and less than 1")
    name = f"{frames}x{frame_size}_every{spacing}_test{round(100 * test_fraction)}"
    return ClipsConfig(
        name=name,
        description=f"{frames} frames of {frame_size}x{frame_size}, one clip every {spacing} frames",
        frames=frames,
        frame_size=frame_size,
        spacing=spacing,
        test_fraction=test_fraction,
        splits=os.fspath(splits or ""),
    )


def _manifest(dataset: str, source: Path, config: ClipsConfig, builder: ClipRecords, root: Path) -> dict[str, Any]:
    splits = {}
    for split in SPLITS:
        videos = [item for item in builder.prepared if item.clips[split]]
        if videos:
            splits[split] = {
                "videos": len(videos),
                "clips": sum(item.clips[split] for item in videos),
                "positives": sum(item.positives[split] for item in videos),
            }
    return {
        "dataset": dataset,
        "source": str(source.absolute()),
        "records": str(Path(builder.data_dir).relative_to(root)),
        "settings": {
            "frames": config.frames,
            "frame_size": config.frame_size,
            "spacing": config.spacing,
            "test_fraction": config.test_fraction,
            "splits": config.splits,
        },
        "splits": splits,
        "videos": [
            {
                "video": item.video,
                "frames": item.frames,
                "fps": item.fps,
                "has_sound": item.has_sound,
                "clips": item.clips,
                "positives": item.positives,
                **({"users": item.users} if item.users else {}),
            }
            for item in builder.prepared
        ],
        "folds": builder.folds,
        "annotations": {
            name: str((Path(builder.data_dir) / file).relative_to(root)) for name, file in builder.annotations.items()
        },
        "skipped": [{"video": item.video, "reason": item.reason} for item in builder.skipped],
        **({"warnings": builder.warnings} if builder.warnings else {}),
        "files": checksums(root),
        "software": software(),
    }
