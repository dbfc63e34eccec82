"""Clips to sharded records: TFDS builders, so that users of TFDS can load them by name as well.

    builder = tfds.builder("movies", data_dir=..., file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=source))

The builders write ArrayRecord themselves, video by video, rather than through TFDS's
GeneratorBasedBuilder: that one holds up to a gigabyte of records in memory and beyond it needs
TensorFlow for its temporary files. Here a finished video lies on disk, records come in the order of
the films, and grain shuffles when it reads.
"""

import abc
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorflow_datasets.core import dataset_builder
from tqdm import tqdm

from avmsnet_jax.data import clips
from avmsnet_jax.data.sources import SPLITS, Collection, Skipped, Video
from avmsnet_jax.data.sources.movies import find_films
from avmsnet_jax.data.sources.published import find_videos
from avmsnet_jax.errors import UserError

_SHARD_BYTES = 200e6
_MOST_SHARDS = 512  # a reader keeps all shards of a split open, and 1024 files is a common limit
_RANDOM_ACCESS = "group_size:1"


@dataclasses.dataclass(eq=False)
class ClipsConfig(tfds.core.BuilderConfig):
    """How videos are cut. The defaults are the published ones.

    Attributes:
      frames: frames of a clip, a multiple of 8.
      frame_size: height and width of a clip's frames, pixels.
      spacing: frames from one clip's centre to the next one's.
      test_fraction: share of the test split where the layout does not say; see `sources.movies`.
    """

    frames: int = 16
    frame_size: int = 112
    spacing: int = 25
    test_fraction: float = 0.3


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What became of one video.

    Attributes:
      video: its name.
      fps: frames a second.
      frames: frames that were decoded.
      has_sound: whether there was an audio track.
      clips: clips by split.
      positives: clips labelled 1, by split.
      files: staged records by split, in order of time.
    """

    video: str
    fps: float
    frames: int
    has_sound: bool
    clips: dict[str, int]
    positives: dict[str, int]
    files: dict[str, Path]


class ClipRecords(dataset_builder.FileReaderBuilder, abc.ABC):
    """A data set of labelled clips.

    After `download_and_prepare`, `prepared` and `skipped` say what became of each video.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [ClipsConfig(name="published", description="16 frames of 112x112, one clip every 25 frames")]

    url_infos = None  # nothing is downloaded; TFDS's own look-up needs importlib_resources, which it does not install

    CITATION = ""
    USERS = 0  # the most users that scored a video; records of collections without any have no `scores`

    prepared: list[Prepared]
    skipped: list[Skipped]

    @abc.abstractmethod
    def find(self, source: Path) -> Collection:
        """The videos of a layout on disk, and what was left out."""

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        size = config.frame_size
        tensor = tfds.features.Tensor
        scores = tensor(
            shape=(self.USERS,),
            dtype=np.float32,
            encoding="bytes",
            doc="what each user gave that frame; NaN beyond the video's users",
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            citation=self.CITATION,
            features=tfds.features.FeaturesDict(
                {
                    # encoding="bytes": as integers of a protocol buffer a clip decodes 15 times more slowly, and
                    # floating point numbers would all be cut to 32 bits.
                    "clip": tensor(
                        shape=(config.frames, size, size, 3), dtype=np.uint8, encoding="bytes", doc="RGB frames"
                    ),
                    "sound": tensor(
                        shape=(clips.SAMPLES_PER_FRAME * config.frames,),
                        dtype=np.float32,
                        encoding="bytes",
                        doc="mono at 22,050 Hz in ±256, under a Hann window, centred",
                    ),
                    "has_sound": tfds.features.Scalar(dtype=np.bool_, doc="whether anything is heard"),
                    "label": tfds.features.ClassLabel(names=["other", "key"]),  # -1 where nobody said
                    **({"scores": scores} if self.USERS else {}),
                    "video": tfds.features.Text(doc="name of the video"),
                    "frame": tfds.features.Scalar(dtype=np.int32, doc="the frame that the label is of, from 1"),
                    "time_s": tensor(shape=(), dtype=np.float64, encoding="bytes", doc="when that frame is shown"),
                    "fps": tensor(shape=(), dtype=np.float64, encoding="bytes", doc="frames a second of the video"),
                }
            ),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        source, folder = Path(dl_manager.manual_dir), Path(self.data_path)
        collection = self.find(source)
        videos, self.skipped, self.prepared = collection.videos, list(collection.skipped), []
        config = self.builder_config
        total = sum(len(clips.centres(video.expected_frames, config.frames, config.spacing)) for video in videos)
        with tqdm(total=total or None, unit="clip", disable=None) as bar:  # None: only on a terminal
            for left_out in self.skipped:
                tqdm.write(f"skipped {left_out.video}: {left_out.reason}", file=sys.stderr)
            for number, video in enumerate(videos, start=1):
                try:
                    done = self._stage(video, folder / f"{number:06d}", bar.update)
                except UserError as error:
                    self.skipped.append(Skipped(video.name, str(error)))
                    tqdm.write(f"[{number}/{len(videos)}] skipped {video.name}: {error}", file=sys.stderr)
                    continue
                self.prepared.append(done)
                facts = f"{sum(done.clips.values())} clips, {sum(done.positives.values())} key"
                tqdm.write(f"[{number}/{len(videos)}] {video.name}: {facts}", file=sys.stderr)
        if not self.prepared:
            reasons = "; ".join(f"{item.video}: {item.reason}" for item in self.skipped[:3]) or "no film is in it"
            raise UserError(f"nothing in {source} could be prepared ({reasons})")
        self._write_annotations(collection, folder)
        self.info.set_splits(
            tfds.core.SplitDict([self._pack(split) for split in SPLITS if any(p.clips[split] for p in self.prepared)])
        )

    def _write_annotations(self, collection: Collection, folder: Path) -> None:
        """Keeps what users said of whole videos, in <folder>/annotations/<video>.npz."""
        names = {item.video for item in self.prepared}
        for video in collection.videos:
            if video.name in names and (arrays := video.annotations()):
                (folder / "annotations").mkdir(exist_ok=True)
                np.savez_compressed(folder / "annotations" / f"{video.name}.npz", **arrays)  # type: ignore[arg-type]

    def _stage(self, video: Video, prefix: Path, on_clip: Callable[[], Any]) -> Prepared:
        """Writes one video's records to a file of its own for each split, or leaves nothing."""
        config = self.builder_config
        files: dict[str, Path] = {}
        writers: dict[str, ArrayRecordWriter] = {}
        count, positives = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
        n_frames = 0

        def film() -> Iterator[clips.Frame]:
            nonlocal n_frames
            for frame in video.read_frames():
                n_frames = frame.number
                yield frame

        try:
            waveform = video.open_waveform()
            for clip in clips.cut(
                film(),
                waveform,
                video.fps,
                frames=config.frames,
                frame_size=config.frame_size,
                spacing=config.spacing,
            ):
                split, label = video.split_of(clip.time_s), video.label(clip.frame, clip.time_s)
                if split not in writers:
                    files[split] = prefix.with_name(f"{prefix.name}.{split}.staged")
                    writers[split] = ArrayRecordWriter(str(files[split]), _RANDOM_ACCESS)
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
                if self.USERS:
                    scores = video.scores(clip.frame)
                    example["scores"] = np.pad(scores, (0, self.USERS - len(scores)), constant_values=np.nan)
                writers[split].write(self.info.features.serialize_example(example))
                count[split] += 1
                positives[split] += label == 1
                on_clip()
            if not files:
                raise UserError(
                    f"too short: {n_frames} frames hold no clip; the first one needs frames "
                    f"up to {clips.first_centre(config.frames, config.spacing) + config.frames // 2}"
                )
        except BaseException:
            for split, writer in writers.items():
                writer.close()
                files[split].unlink()
            raise
        for writer in writers.values():
            writer.close()
        return Prepared(video.name, video.fps, n_frames, waveform is not None, count, positives, files)

    def _pack(self, split: str) -> tfds.core.SplitInfo:
        """Moves the staged records of a split into shards of even length, in order."""
        staged = [item.files[split] for item in self.prepared if split in item.files]
        total = sum(item.clips[split] for item in self.prepared)
        shards = min(max(round(sum(path.stat().st_size for path in staged) / _SHARD_BYTES), 1), _MOST_SHARDS)
        lengths = [total * (i + 1) // shards - total * i // shards for i in range(shards)]
        template = self._get_filename_template(split)
        records = itertools.chain.from_iterable(map(_drain, staged))
        num_bytes = 0
        for index, length in enumerate(lengths):
            path = Path(template.sharded_filepath(shard_index=index, num_shards=shards))
            writer = ArrayRecordWriter(str(path), _RANDOM_ACCESS)
            for record in itertools.islice(records, length):
                writer.write(record)
            writer.close()
            num_bytes += path.stat().st_size
        next(records, None)  # lets the last staged file go
        return tfds.core.SplitInfo(split, lengths, num_bytes, template)


class Movies(ClipRecords):
    """Films of one's own, with the key shots that somebody chose: a clip is key if its middle lies in one."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "A folder of films, with <film stem>.keyshots.csv (start_s,end_s) beside each."

    def find(self, source: Path) -> Collection:
        """See `ClipRecords`."""
        return find_films(source, self.builder_config.test_fraction)


class Movie50(ClipRecords):
    """Movie50: 50 movies, the eye fixations of 20 people turned into key-frame labels."""

    CITATION = """\
@inproceedings{zhao2022human,
  title={Human Attention Based Movie Summarization: Dataset and Baseline Model},
  author={Zhao, Defang and Zhu, Dandan and Min, Xiongkuo and Yue, Jiaomin and Zhang, Kaiwei and Zhou, Qiangqiang
          and Zhai, Guangtao and Yang, Xiaokang},
  booktitle={IEEE International Conference on Multimedia and Expo (ICME)}, year={2022},
  doi={10.1109/ICME52920.2022.9859796}
}
"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "The published layout: a folder that holds video_frames/Movie50, video_audio/Movie50, annotations/Movie50 and "
        "fold_lists/Movie50_list_{train,test}_fps.txt."
    )

    def find(self, source: Path) -> Collection:
        """See `ClipRecords`."""
        return find_videos(source, "Movie50")


class Tvsum(ClipRecords):
    """TVSum in the published layout, with frames labelled key or not."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = Movie50.MANUAL_DOWNLOAD_INSTRUCTIONS.replace("Movie50", "TVSum")

    def find(self, source: Path) -> Collection:
        """See `ClipRecords`."""
        return find_videos(source, "TVSum")


def _drain(path: Path) -> Iterator[bytes]:
    """Yields the records of a staged file, and removes it after the last."""
    reader = ArrayRecordReader(str(path))
    for start in range(0, reader.num_records(), 32):
        yield from reader.read(start, min(start + 32, reader.num_records()))
    reader.close()
    path.unlink()
