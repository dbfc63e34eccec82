"""Writes the records of one film to a folder of its own, which appears complete or not at all."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from avmsnet_jax import json_file, unforeseen
from avmsnet_jax.data import clips
from avmsnet_jax.data.sources import SPLITS, Skipped, Video
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import FFMPEG_VERSION

FORMAT = "1.0.0"  # of the records; when it changes, unfinished work of earlier versions is started again
PIECE_BYTES = 400e6  # uncompressed records in one file of a film; compressed, they make about one shard
_DONE = "done.json"
# Records can be read in any order. zstd's level 1 takes a third of the time of its default; files are 2% larger.
_RANDOM_ACCESS = "group_size:1,zstd:1"


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a film is cut into records.

    Attributes:
      frames: frames of a clip, a multiple of 8.
      frame_size: height and width of a clip's frames, pixels.
      spacing: frames from one clip's center to the next one's.
      users: length of a record's `scores`; 0 = it has none.
    """

    frames: int
    frame_size: int
    spacing: int
    users: int

    def features(self) -> tfds.features.FeaturesDict:
        """What a record holds."""
        tensor = tfds.features.Tensor
        scores = tensor(
            shape=(self.users,),
            dtype=np.float32,
            encoding="bytes",
            doc="each user's score of that frame; NaN beyond the video's users",
        )
        return tfds.features.FeaturesDict(
            {
                # encoding="bytes": stored as integers of a protocol buffer, a clip would take 15 times as long to
                # decode, and all floating point numbers would have 32 bits.
                "clip": tensor(
                    shape=(self.frames, self.frame_size, self.frame_size, 3),
                    dtype=np.uint8,
                    encoding="bytes",
                    doc="RGB frames",
                ),
                "sound": tensor(
                    shape=(clips.SAMPLES_PER_FRAME * self.frames,),
                    dtype=np.float32,
                    encoding="bytes",
                    doc="mono at 22,050 Hz in ±256, under a Hann window, centered",
                ),
                "has_sound": tfds.features.Scalar(dtype=np.bool_, doc="whether anything is heard"),
                "label": tfds.features.ClassLabel(names=["other", "key"]),  # -1 = unlabeled
                **({"scores": scores} if self.users else {}),
                "video": tfds.features.Text(doc="name of the video"),
                "frame": tfds.features.Scalar(dtype=np.int32, doc="the frame that the label is of, from 1"),
                "time_s": tensor(shape=(), dtype=np.float64, encoding="bytes", doc="when that frame is shown"),
                "fps": tensor(shape=(), dtype=np.float64, encoding="bytes", doc="frames a second of the video"),
            }
        )

    def piece_records(self) -> int:
        """Records in each of a film's files but the last."""
        record = 3 * self.frames * self.frame_size**2 + 4 * clips.SAMPLES_PER_FRAME * self.frames
        return max(int(PIECE_BYTES // record), 1)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The outcome of one video.

    Attributes:
      video: its name.
      fps: frames a second.
      frames: frames that were decoded.
      has_sound: whether there was an audio track.
      users: how many users scored it; 0 = it has labels only.
      clips: clips by split.
      positives: key clips, by split.
      pieces: records in each of its files, by split, in order of time; see `piece_path`.
      size: bytes of these files together, by split.
    """

    video: str
    fps: float
    frames: int
    has_sound: bool
    users: int
    clips: dict[str, int]
    positives: dict[str, int]
    pieces: dict[str, list[int]]
    size: dict[str, int]


@functools.cache
def software() -> dict[str, str]:
    """Versions of the libraries that the bytes of a record depend on."""
    libraries = ("av", "pillow", "soxr", "numpy", "tensorflow-datasets", "array_record")
    return {
        "python": platform.python_version(),
        "ffmpeg": FFMPEG_VERSION,
        **{name: importlib.metadata.version(name) for name in libraries},
    }


def fingerprint(video: Video, cut: Cut) -> str:
    """A digest of everything that a video's records depend on: files, split, clip settings and library versions."""
    facts = [
        [FORMAT, software(), dataclasses.astuple(cut), cut.piece_records()],
        [type(video).__name__, video.name, video.fps, video.split, video.test_from_s, video.test_until_s],
        [video.expected_frames, video.basis],
        [_state(path) for path in video.files],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def piece_path(folder: Path, split: str, number: int) -> Path:
    """A film's records, the file `number` (from 0) of a split."""
    return folder / f"{split}.{number:06d}"


def finished(folder: Path) -> Prepared | None:
    """The outcome that `stage` has written to a film's folder; None if it has not finished.

    Raises:
      UserError: the file that records it is damaged.
    """
    path, remedy = folder / _DONE, f"remove {folder}, and the film is read again"
    try:
        return Prepared(**json_file.read(path, remedy))
    except FileNotFoundError:
        return None
    except TypeError:
        raise UserError(f"{path} is damaged; {remedy}") from None


def stage(video: Video, cut: Cut, folder: Path, on_clip: Callable[[], Any]) -> Prepared | Skipped:
    """Writes a video's records to a folder, which appears when they are complete.

    Args:
      video: the video.
      cut: how it is cut.
      folder: the folder to create; its parent exists.
      on_clip: called after each clip.

    Returns:
      the outcome, or why the video cannot be read: an error in reading skips this film only.

    Raises:
      OSError: the place cannot be written, or is full.
    """
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        prepared = _write(video, cut, temporary, on_clip)
        with open(temporary / _DONE, "w") as file:
            json.dump(dataclasses.asdict(prepared), file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.rename(temporary, folder)
        except OSError:  # Beam may give one film to two workers, and the other was faster
            if not finished(folder):
                raise
        return prepared
    except UserError as error:
        return Skipped(video.name, str(error))
    except _UnforeseenError as error:
        cause = error.__cause__ or error
        return Skipped(video.name, unforeseen.describe(cause), "".join(traceback.format_exception(cause)))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(video: Video, cut: Cut, folder: Path, on_clip: Callable[[], Any]) -> Prepared:
    features = cut.features()
    serializer = ExampleSerializer(features.get_serialized_info())
    n_frames = users = 0

    def film() -> Iterator[clips.Frame]:
        nonlocal n_frames
        for frame in video.read_frames():
            n_frames = frame.number
            yield frame

    with contextlib.closing(_Pieces(folder, cut.piece_records())) as pieces:
        with _reading():
            waveform = video.open_waveform()
            size: dict[str, Any] = {"frames": cut.frames, "frame_size": cut.frame_size, "spacing": cut.spacing}
            cuts = clips.cut(film(), waveform, video.fps, **size)
        while True:
            with _reading():
                clip = next(cuts, None)
                if clip is None:
                    break
                split, label = video.split_of(clip.time_s), video.label(clip.frame, clip.time_s)
                example = {
                    "clip": clip.clip,
                    "sound": clip.sound,
                    "has_sound": clip.has_sound,
                    "label": label,
                    "video": video.name,
                    "frame": clip.frame,
                    "time_s": clip.time_s,
                    "fps": video.fps,
                }
                if cut.users:
                    scores = video.scores(clip.frame)
                    users = max(users, len(scores))
                    example["scores"] = np.pad(scores, (0, cut.users - len(scores)), constant_values=np.nan)
                # Protocol buffers order a map's fields at random in each process, unless told to be deterministic.
                proto = serializer.get_tf_example(features.encode_example(example))
                record = proto.SerializeToString(deterministic=True)
            pieces.write(split, record, positive=label == 1)
            on_clip()
        pieces.finish()
    if not pieces.lengths:
        raise UserError(
            f"too short: {n_frames} frames hold no clip; the first one needs frames "
            f"up to {clips.first_center(cut.frames, cut.spacing) + cut.frames // 2}"
        )
    return Prepared(
        video.name,
        video.fps,
        n_frames,
        waveform is not None,
        users,
        {split: sum(pieces.lengths.get(split, ())) for split in SPLITS},
        pieces.positives,
        pieces.lengths,
        pieces.sizes,
    )


class _Pieces:
    """A film's files of records: several in a row for each split, each of a limited number of records.

    Args:
      folder: where they are written; see `piece_path`.
      most: records in each file but the last.

    Attributes:
      lengths: records in each file, by split, for the splits that have any.
      sizes: bytes of the finished files together, by split.
      positives: key clips, by split.
    """

    def __init__(self, folder: Path, most: int):
        self._folder, self._most = folder, most
        self._writers: dict[str, ArrayRecordWriter] = {}  # of each split's last file
        self.lengths: dict[str, list[int]] = {}
        self.sizes: dict[str, int] = {}
        self.positives = dict.fromkeys(SPLITS, 0)

    def write(self, split: str, record: bytes, *, positive: bool) -> None:
        """Appends a record to the split's last file, or begins the next one."""
        lengths = self.lengths.setdefault(split, [])
        if not lengths or lengths[-1] == self._most:
            self._finish(split)
            lengths.append(0)
            self._writers[split] = open_writer(self._last(split))
        self._writers[split].write(record)
        lengths[-1] += 1
        self.positives[split] += positive

    def finish(self) -> None:
        """Closes all files so that they survive a crash of the machine; raises OSError if the disk is full."""
        for split in self.lengths:
            self._finish(split)

    def close(self) -> None:
        """Closes what is still open, after an error: the library does not allow a writer to be dropped."""
        for writer in self._writers.values():
            with contextlib.suppress(RuntimeError):
                writer.close()

    def _finish(self, split: str) -> None:
        if writer := self._writers.pop(split, None):
            finish(writer, self._last(split))
            self.sizes[split] = self.sizes.get(split, 0) + self._last(split).stat().st_size

    def _last(self, split: str) -> Path:
        return piece_path(self._folder, split, len(self.lengths[split]) - 1)


def open_writer(path: Path) -> ArrayRecordWriter:
    """A file of records that can be read in any order; see `finish`."""
    path.touch()  # fails at once where nothing can be written; the library would notice only at the end
    return ArrayRecordWriter(str(path), _RANDOM_ACCESS)


def finish(writer: ArrayRecordWriter, path: Path) -> None:
    """Closes a file of records so that it survives a crash of the machine.

    Raises:
      OSError: the disk is full or broken, which the library notices only here.
    """
    try:
        writer.close()
    except RuntimeError as error:
        raise OSError(str(error).split("; ")[0].removeprefix("write() failed: ")) from error
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class _UnforeseenError(Exception):
    """An unexpected error in reading a film; the error is its cause."""


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Marks unexpected errors in reading a film, which skip it; errors in writing end the whole run."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _UnforeseenError from error


def _state(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except OSError:
        return [str(path), None]
    return [str(path), status.st_size, status.st_mtime_ns]
