"""One film to records in a place of its own, whole or not at all: what is finished need not be made again."""

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

FORMAT = "1.0.0"  # of the records; another one, and what earlier versions left unfinished is made again
PIECE_BYTES = 400e6  # of records before compression, in one file of a film: about a shard of compressed ones
_DONE = "done.json"
# For random access. Level 1 takes a third of the time of zstd's default, for files 2% larger.
_RANDOM_ACCESS = "group_size:1,zstd:1"


@dataclasses.dataclass(frozen=True)
class Cut:
    """How records are made of a film.

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
            doc="what each user gave that frame; NaN beyond the video's users",
        )
        return tfds.features.FeaturesDict(
            {
                # encoding="bytes": as integers of a protocol buffer a clip decodes 15 times more slowly, and
                # floating point numbers would all be cut to 32 bits.
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
                "label": tfds.features.ClassLabel(names=["other", "key"]),  # -1 where nobody said
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
    """What became of one video.

    Attributes:
      video: its name.
      fps: frames a second.
      frames: frames that were decoded.
      has_sound: whether there was an audio track.
      users: how many users scored it, 0 where there are only labels.
      clips: clips by split.
      positives: clips labelled 1, by split.
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
    """Versions of what decides the bytes of a record."""
    libraries = ("av", "pillow", "soxr", "numpy", "tensorflow-datasets", "array_record")
    return {
        "python": platform.python_version(),
        "ffmpeg": FFMPEG_VERSION,
        **{name: importlib.metadata.version(name) for name in libraries},
    }


def fingerprint(video: Video, cut: Cut) -> str:
    """Changes when a video's records have to be made anew: with its files, its split, how it is cut, and by what."""
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
    """What `stage` left in a film's folder, None where it has not.

    Raises:
      UserError: the file that says so is damaged.
    """
    path, remedy = folder / _DONE, f"remove {folder}, and the film is read again"
    try:
        return Prepared(**json_file.read(path, remedy))
    except FileNotFoundError:
        return None
    except TypeError:
        raise UserError(f"{path} is damaged; {remedy}") from None


def stage(video: Video, cut: Cut, folder: Path, on_clip: Callable[[], Any]) -> Prepared | Skipped:
    """Writes a video's records to a folder, which appears when they are whole.

    Args:
      video: the video.
      cut: how it is cut.
      folder: to create; its parent exists.
      on_clip: called after each clip.

    Returns:
      what was made of it, or why nothing could be: whatever goes wrong in reading is the film's own affair.

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
        except OSError:  # another worker of Beam's, which does now and then give one film to two, was faster
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
    features, in_piece = cut.features(), cut.piece_records()
    serializer = ExampleSerializer(features.get_serialized_info())
    writers: dict[str, ArrayRecordWriter] = {}
    count, positives = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    n_frames = users = 0

    def film() -> Iterator[clips.Frame]:
        nonlocal n_frames
        for frame in video.read_frames():
            n_frames = frame.number
            yield frame

    def close(split: str) -> None:
        finish(writers.pop(split), piece_path(folder, split, (count[split] - 1) // in_piece))

    try:
        with _reading():
            waveform = video.open_waveform()
            cuts = clips.cut(
                film(),
                waveform,
                video.fps,
                frames=cut.frames,
                frame_size=cut.frame_size,
                spacing=cut.spacing,
            )
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
                # Or the fields come in an order that each process chooses anew.
                proto = serializer.get_tf_example(features.encode_example(example))
                record = proto.SerializeToString(deterministic=True)
            if count[split] % in_piece == 0:
                if split in writers:
                    close(split)
                path = piece_path(folder, split, count[split] // in_piece)
                writers[split] = open_writer(path)
            writers[split].write(record)
            count[split] += 1
            positives[split] += label == 1
            on_clip()
        for split in list(writers):
            close(split)
    finally:
        for writer in writers.values():  # of a film that breaks off: the library wants it
            with contextlib.suppress(RuntimeError):
                writer.close()
    pieces = {split: [min(in_piece, n - start) for start in range(0, n, in_piece)] for split, n in count.items() if n}
    if not pieces:
        raise UserError(
            f"too short: {n_frames} frames hold no clip; the first one needs frames "
            f"up to {clips.first_center(cut.frames, cut.spacing) + cut.frames // 2}"
        )
    size = {
        split: sum(piece_path(folder, split, number).stat().st_size for number in range(len(lengths)))
        for split, lengths in pieces.items()
    }
    return Prepared(video.name, video.fps, n_frames, waveform is not None, users, count, positives, pieces, size)


def open_writer(path: Path) -> ArrayRecordWriter:
    """A file of records that can be read in any order; see `finish`."""
    path.touch()  # the library says only at the end that a place cannot be written
    return ArrayRecordWriter(str(path), _RANDOM_ACCESS)


def finish(writer: ArrayRecordWriter, path: Path) -> None:
    """Closes a file of records so that it survives a crash of the machine.

    Raises:
      OSError: the disk is full, or broken. The library notices only here.
    """
    try:
        writer.close()
    except RuntimeError as error:
        raise OSError(str(error).split("; ")[0].removeprefix("write() failed: ")) from error
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class _UnforeseenError(Exception):
    """What went wrong with a film, as its cause."""


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Tells what goes wrong with a film from what goes wrong with the place: only the latter ends the work."""
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
