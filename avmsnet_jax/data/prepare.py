"""A layout on disk to a directory of records, whole or not at all."""

import contextlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import tensorflow_datasets as tfds
from absl import logging

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.data import MANIFEST
from avmsnet_jax.data.records import ClipRecords, ClipsConfig, Movie50, Movies, Tvsum
from avmsnet_jax.data.sources import SPLITS
from avmsnet_jax.errors import UserError

BUILDERS: dict[str, type[ClipRecords]] = {"movie50": Movie50, "movies": Movies, "tvsum": Tvsum}


def prepare(
    dataset: str,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    frames: int = 16,
    frame_size: int = 112,
    spacing: int = 25,
    test_fraction: float = 0.3,
) -> dict[str, Any]:
    """Cuts a collection into clips and writes them as sharded records.

    The records are written beside `output` under a hidden name, and get their own when they are whole.

    Args:
      dataset: movie50 or tvsum (the published layout), or movies (a folder of films with key shots).
      source: the collection.
      output: the directory to create; it may exist, if it is empty.
      frames: frames of a clip, a multiple of 8.
      frame_size: height and width of a frame, a multiple of 16, pixels.
      spacing: frames from one clip to the next.
      test_fraction: share of the test split of `movies`, 0 <= test_fraction < 1.

    Returns:
      the manifest, as it was written to `output`: what was read, what was skipped and why.

    Raises:
      UserError: an argument makes no sense, `output` is in the way, or nothing could be read.
    """
    source, output = Path(source), Path(output)
    ModelConfig(frames=frames, frame_size=frame_size)  # raises for clips that no network can take
    if spacing < 1:
        raise UserError(f"--spacing is {spacing}; it must be at least 1 frame")
    if not 0 <= test_fraction < 1:
        raise UserError(f"--test_fraction is {test_fraction}; it must be at least 0 and less than 1")
    if not source.is_dir():
        raise UserError(f"there is no folder {source}; --source must be the folder of the collection")
    if not any(source.iterdir()):
        raise UserError(f"nothing in {source} could be prepared (it is empty)")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists already; remove it, or choose another --output")
    partial = output.absolute().with_name(f".{output.absolute().name}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir()
        config = _config(frames, frame_size, spacing, test_fraction)
        with _quiet_tfds():
            builder = BUILDERS[dataset](data_dir=partial, config=config, file_format="array_record")
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=source, try_download_gcs=False)
            )
        shutil.rmtree(partial / "downloads", ignore_errors=True)  # TFDS makes it, nobody uses it
        manifest = _manifest(dataset, source, config, builder, partial)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, output)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error}; choose a folder that is writable and has room") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Keeps to itself that TFDS downloads (nothing) to a folder (that is about to be renamed)."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _config(frames: int, frame_size: int, spacing: int, test_fraction: float) -> ClipsConfig:
    name = f"{frames}x{frame_size}_every{spacing}_test{round(100 * test_fraction)}"
    return ClipsConfig(
        name=name,
        description=f"{frames} frames of {frame_size}x{frame_size}, one clip every {spacing} frames",
        frames=frames,
        frame_size=frame_size,
        spacing=spacing,
        test_fraction=test_fraction,
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
            }
            for item in builder.prepared
        ],
        "skipped": [{"video": item.video, "reason": item.reason} for item in builder.skipped],
        "software": {
            "python": platform.python_version(),
            "ffmpeg": av.ffmpeg_version_info,
            **{
                name: importlib.metadata.version(name)
                for name in ("av", "pillow", "soxr", "numpy", "tensorflow-datasets", "array_record")
            },
        },
    }
