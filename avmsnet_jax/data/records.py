"""TFDS builders that write clips as sharded records. TFDS users can load them by name:

    builder = tfds.builder("movies", data_dir=..., file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=source))

The builders write ArrayRecord themselves, film by film. TFDS's GeneratorBasedBuilder would hold up to a gigabyte of
records in memory, and needs TensorFlow for larger data sets. Records are stored in the order of the films; grain
shuffles when it reads.
"""

import abc
import dataclasses
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder
from tqdm import tqdm

from avmsnet_jax import unforeseen
from avmsnet_jax.data import clips, on_beam, pack, process_pool
from avmsnet_jax.data.film import FORMAT, Cut, Prepared, fingerprint, finished
from avmsnet_jax.data.process_pool import Task
from avmsnet_jax.data.sources import Collection, Skipped, Video, gaze, summe, tvsum
from avmsnet_jax.data.sources.folds import Fold
from avmsnet_jax.data.sources.movies import Elsewhere, find_films, nowhere
from avmsnet_jax.data.sources.published import find_videos
from avmsnet_jax.errors import UserError, printable
from avmsnet_jax.staging import remove

Spans = list[list[int]]  # half-open spans of record numbers
_LABELED = ("train", "test", "whole")


@dataclasses.dataclass(eq=False)
class ClipsConfig(tfds.core.BuilderConfig):
    """How videos are cut into clips and split. The defaults are the published ones.

    Attributes:
      frames: frames of a clip, a multiple of 8.
      frame_size: height and width of a clip's frames, pixels.
      spacing: frames between the centers of successive clips.
      test_fraction: share of the test split if the source does not define one; see `sources.movies`.
      splits: a JSON file of folds, for TVSum and SumMe; empty = the source's own.
    """

    frames: int = 16
    frame_size: int = 112
    spacing: int = 25
    test_fraction: float = 0.3
    splits: str = ""


class _Info(tfds.core.DatasetInfo):
    """TFDS's description of a data set, without its lookup in Google's storage, which leaves a temporary folder."""

    def initialize_from_bucket(self) -> None:
        """Does nothing."""


class ClipRecords(dataset_builder.FileReaderBuilder, abc.ABC):
    """A data set of labeled clips.

    After `download_and_prepare`, `prepared` and `skipped` hold the outcome for each video, in the collection's order,
    `warnings` doubtful labels (`{"video": name, "reason": ...}`, or `split`), `folds` the records of the split `whole`
    that each fold trains and tests on, and `annotations` the file (relative to `data_path`) with the users' annotations
    of each video.

    Attributes:
      place: working folder for finished films and shards; the caller moves the shards to `data_dir` at the end.
        Finished films of an earlier run are reused. None = a temporary folder of TFDS, which is removed on failure.
      workers: films read in parallel.
      strict: whether a skipped film is an error.
      beam_options: options of an Apache Beam pipeline that does the work; None = without Beam.
    """

    VERSION = tfds.core.Version(FORMAT)
    BUILDER_CONFIGS = [ClipsConfig(name="published", description="16 frames of 112x112, one clip every 25 frames")]

    url_infos = None  # no downloads; TFDS's lookup needs importlib_resources, which TFDS does not install

    CITATION = ""
    USERS = 0  # largest number of users who scored a video; with 0, records have no `scores`

    place: Path | None = None
    workers = 1
    strict = False
    beam_options: Sequence[str] | None = None

    prepared: list[Prepared]
    skipped: list[Skipped]
    warnings: list[dict[str, str]]
    folds: list[dict[str, Spans]]
    annotations: dict[str, str]

    @abc.abstractmethod
    def find(self, source: Path) -> Collection:
        """The videos of a collection on disk, and what was left out."""

    def cut(self) -> Cut:
        """How the films are cut."""
        config = self.builder_config
        return Cut(config.frames, config.frame_size, config.spacing, self.USERS)

    def _info(self) -> tfds.core.DatasetInfo:
        return _Info(
            builder=self,
            description=self.__doc__,
            citation=self.CITATION,
            features=self.cut().features(),
            metadata=tfds.core.MetadataDict(),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        source, folder = Path(dl_manager.manual_dir), Path(self.data_path)
        place = self.place or folder / "work"
        for needed in ("films", "shards"):
            (place / needed).mkdir(parents=True, exist_ok=True)
        collection = self.find(source)
        videos, twice = _unique(collection.videos)
        found = [*collection.skipped, *twice]
        for left_out in found:
            self._say(f"skipped {left_out.video}: {left_out.reason}")
        if found and self.strict:
            raise UserError(f"{found[0].video} would be skipped: {found[0].reason} (--strict)")
        films = [(video, place / "films" / fingerprint(video, self.cut())) for video in videos]
        outcomes, plan = self._stage_as_planned(films, place)
        self.prepared = [outcome for outcome in outcomes if isinstance(outcome, Prepared)]
        self.skipped = found + [outcome for outcome in outcomes if isinstance(outcome, Skipped)]
        if not self.prepared:
            reasons = "; ".join(f"{item.video}: {item.reason}" for item in self.skipped[:3]) or "no film is in it"
            raise UserError(f"nothing in {source} could be prepared ({reasons})")
        self._pack(place, plan)
        self.folds = [
            {split: _spans_of(names, self.prepared) for split, names in fold.items()} for fold in collection.folds
        ]
        if self.folds:
            self.info.metadata["folds"] = self.folds
        self.warnings = _warnings(self.prepared, collection.folds)
        for warning in self.warnings:
            what = warning.get("video") or f"split {warning['split']}"
            self._say(f"warning: {what}: {warning['reason']}")
        self._write_annotations(videos, folder)
        splits = []
        for split, shards in plan.shards.items():
            size = sum((place / name).stat().st_size for name, _, _ in shards)
            splits.append(tfds.core.SplitInfo(split, plan.lengths(split), size, self._get_filename_template(split)))
        self.info.set_splits(tfds.core.SplitDict(splits))
        if self.place is None:
            for shard in (place / "shards").iterdir():
                os.replace(shard, folder / shard.name)
            remove(place)

    def _stage_as_planned(self, films: Sequence[Task], place: Path) -> tuple[list[Prepared | Skipped], pack.Plan]:
        """Stages unfinished films, and decides which records go to which shard."""
        known = {folder.name for _, folder in films}
        for entry in (place / "films").iterdir():
            if entry.name not in known:  # of other settings, changed films or unfinished
                remove(entry)
        outcomes = self._stage(films)
        plan, path = self._plan(films, outcomes, place), place / pack.PLAN
        if plan != pack.load_plan(path) or not pack.feasible(place, plan):
            # Shards that an earlier run packed by another plan are useless, and the films in them are gone.
            path.unlink(missing_ok=True)
            remove(place / "shards")
            (place / "shards").mkdir()
            pieces = [place / file for pieces in plan.pieces.values() for file, _ in pieces]
            gone = {piece.parent for piece in pieces if not piece.exists()}
            for folder in gone:
                remove(folder)
            if gone:
                outcomes = self._stage(films)
                plan = self._plan(films, outcomes, place)
            plan.save(path)
        return outcomes, plan

    def _plan(self, films: Sequence[Task], outcomes: Sequence[Prepared | Skipped], place: Path) -> pack.Plan:
        def name(split: str, number: int, count: int) -> str:
            template = self._get_filename_template(split)
            return f"shards/{template.sharded_filepath(shard_index=number, num_shards=count).name}"

        made = [
            (str(folder.relative_to(place)), outcome)
            for (_, folder), outcome in zip(films, outcomes, strict=True)
            if isinstance(outcome, Prepared)
        ]
        return pack.make_plan(made, name)

    def _stage(self, films: Sequence[Task]) -> list[Prepared | Skipped]:
        """Stages unfinished films. The outcomes are in the order of the films."""
        outcomes: dict[int, Prepared | Skipped] = {
            number: outcome for number, (_, folder) in enumerate(films) if (outcome := finished(folder))
        }
        if outcomes:
            self._say(f"{len(outcomes)} of {len(films)} films are finished already")
        todo = [number for number in range(len(films)) if number not in outcomes]
        cut = self.cut()
        expected = [len(clips.centers(video.expected_frames, cut.frames, cut.spacing)) for video, _ in films]
        seen = [0] * len(films)
        with tqdm(
            total=sum(expected) or None,
            initial=sum(expected[number] for number in outcomes),
            unit="clip",
            disable=None if todo else True,  # None: only on a terminal
        ) as bar:

            def on_clip(index: int) -> None:
                seen[todo[index]] += 1
                bar.update()

            def on_film(index: int, outcome: Prepared | Skipped) -> None:
                number = todo[index]
                if isinstance(outcome, Skipped) and outcome.traceback:
                    beside = self.place and self.place.parent
                    reason = unforeseen.written(outcome.reason, outcome.traceback, beside, outcome.video)
                    outcome = Skipped(outcome.video, reason)
                outcomes[number] = outcome
                if bar.total is not None:
                    bar.total += seen[number] - expected[number]
                which = f"[{number + 1}/{len(films)}]"
                if isinstance(outcome, Prepared):
                    facts = f"{sum(outcome.clips.values())} clips, {sum(outcome.positives.values())} key"
                    self._say(f"{which} {outcome.video}: {facts}")
                elif self.strict:
                    raise UserError(f"{outcome.video} would be skipped: {outcome.reason} (--strict)")
                else:
                    self._say(f"{which} skipped {outcome.video}: {outcome.reason}")

            tasks = [films[number] for number in todo]
            if self.beam_options is None:
                process_pool.stage_films(tasks, cut, self.workers, on_clip, on_film)
            else:
                on_beam.stage_films(tasks, cut, self.beam_options, on_film)
        return [outcomes[number] for number in range(len(films))]

    def _pack(self, place: Path, plan: pack.Plan) -> None:
        shards = [(split, number) for split in plan.shards for number in range(len(plan.shards[split]))]
        if self.beam_options is not None:
            on_beam.pack(place, plan, self.beam_options)
        for split, number in tqdm(shards, desc="packing", unit="shard", disable=None if len(shards) > 9 else True):
            pack.pack_shard(place, plan, split, number)

    def _write_annotations(self, videos: Sequence[Video], folder: Path) -> None:
        """Writes the users' annotations of each video as a file of arrays."""
        self.annotations = {}
        names = {item.video for item in self.prepared}
        for video in videos:
            if video.name in names and (arrays := video.annotations()):
                (folder / "annotations").mkdir(exist_ok=True)
                file = f"annotations/{_file_name(video.name)}.npz"
                np.savez_compressed(folder / file, **arrays)  # type: ignore[arg-type]
                self.annotations[video.name] = file

    @staticmethod
    def _say(line: str) -> None:
        tqdm.write(printable(line), file=sys.stderr)


class Movies(ClipRecords):
    """The user's own films. A clip is key if its middle lies in an annotated key shot, or is labeled so.

    Attributes:
      elsewhere: gives the key shots of films without a table beside them.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "A folder of films, with <film stem>.keyshots.csv (start_s,end_s) or <film stem>.labels.csv (frame,label) "
        "beside each; films with neither are unlabelled."
    )

    elsewhere: Elsewhere = staticmethod(nowhere)

    def find(self, source: Path) -> Collection:
        config = self.builder_config
        return find_films(
            source,
            config.test_fraction,
            frames=config.frames,
            spacing=config.spacing,
            elsewhere=self.elsewhere,
        )


class Gaze(ClipRecords):
    """The user's own films, labeled by gaze: a clip is key where the viewers' gaze is concentrated.

    The rule is defined by this project; see `avmsnet_jax.gaze.concentration`.

    Attributes:
      setting: how the gaze was recorded.
      labels_out: a folder for tables of the labels and the concentration curve of each film; None = none are written.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "A folder of films, each with a folder FILM.gaze of recordings beside it."

    setting = gaze.Setting()
    labels_out: Path | None = None

    def find(self, source: Path) -> Collection:
        return gaze.find_watched(source, self.builder_config.test_fraction, self.setting)

    def _write_annotations(self, videos: Sequence[Video], folder: Path) -> None:
        super()._write_annotations(videos, folder)
        for video in videos:
            if self.labels_out is not None and isinstance(video, gaze.Watched):
                self.labels_out.mkdir(parents=True, exist_ok=True)
                gaze.write_labels(video, self.labels_out)


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
        return find_videos(source, "Movie50")


class Tvsum(ClipRecords):
    """TVSum: 50 videos, each scored by 20 people; or in the published layout, with labeled frames."""

    CITATION = """\
@inproceedings{song2015tvsum,
  title={{TVSum}: Summarizing Web Videos Using Titles},
  author={Song, Yale and Vallmitjana, Jordi and Stent, Amanda and Jaimes, Alejandro},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition (CVPR)}, year={2015}, pages={5179--5187}
}
"""
    USERS = 20
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "TVSum as downloaded: its videos and ydata-tvsum50.mat. Or the published layout, with TVSum in the names: "
        + Movie50.MANUAL_DOWNLOAD_INSTRUCTIONS.replace("Movie50", "TVSum")
    )

    def find(self, source: Path) -> Collection:
        if (source / "fold_lists").exists():
            return find_videos(source, "TVSum")
        return tvsum.find_videos(source, _splits_file(self.builder_config))


class Summe(ClipRecords):
    """SumMe: 25 videos, each summarized by 15 to 18 people."""

    CITATION = """\
@inproceedings{gygli2014creating,
  title={Creating Summaries from User Videos},
  author={Gygli, Michael and Grabner, Helmut and Riemenschneider, Hayko and Van Gool, Luc},
  booktitle={European Conference on Computer Vision (ECCV)}, year={2014}, pages={505--520}
}
"""
    USERS = 18
    MANUAL_DOWNLOAD_INSTRUCTIONS = "SumMe as downloaded: a folder of videos and a folder GT of .mat files."

    def find(self, source: Path) -> Collection:
        return summe.find_videos(source, _splits_file(self.builder_config))


def _splits_file(config: ClipsConfig) -> Path | None:
    return Path(config.splits) if config.splits else None


def _unique(videos: Sequence[Video]) -> tuple[list[Video], list[Skipped]]:
    """Keeps the first of videos with the same name and split."""
    first: dict[tuple[str, str], Video] = {}
    twice = []
    for video in videos:
        if first.setdefault((video.split, video.name), video) is not video:
            twice.append(Skipped(video.name, f"another video of this name is in the split {video.split!r}"))
    return list(first.values()), twice


def _warnings(films: Sequence[Prepared], folds: Sequence[Fold]) -> list[dict[str, str]]:
    """Warnings about films and splits whose labels are probably wrong."""
    found = []
    for film in films:
        count = sum(film.clips[split] for split in _LABELED)
        key = sum(film.positives[split] for split in _LABELED)
        if count and not key:
            found.append({"video": film.video, "reason": "none of its clips is key; check its labels"})
        elif key > count / 2:
            reason = f"{key} of its {count} clips are key, more than half; check its labels"
            found.append({"video": film.video, "reason": reason})
    parts = [(split, split, {film.video for film in films}) for split in _LABELED]
    parts += [
        (f"{split} of fold {number}", "whole", set(names))
        for number, fold in enumerate(folds)
        for split, names in fold.items()
    ]
    for name, split, names in parts:
        own = [film for film in films if film.video in names]
        if any(film.clips[split] for film in own) and not any(film.positives[split] for film in own):
            reason = "none of its clips is key, so nothing can be learned or tested with it; label more films"
            found.append({"split": name, "reason": reason})
    return found


def _spans_of(names: Sequence[str], films: Sequence[Prepared]) -> Spans:
    """The spans of some films' records in the split `whole`; adjacent spans are joined."""
    spans: Spans = []
    for name, start, stop in _extents(films):
        if name in names and start < stop:
            if spans and spans[-1][1] == start:
                spans[-1][1] = stop
            else:
                spans.append([start, stop])
    return spans


def _extents(films: Sequence[Prepared]) -> Iterator[tuple[str, int, int]]:
    end = 0
    for film in films:
        yield film.video, end, end + film.clips["whole"]
        end += film.clips["whole"]


def _file_name(name: str) -> str:
    """A file name for a video: its name if valid, else a similar unique one."""
    if re.fullmatch(r"[\w ()+,-][\w ()+,.-]*", name) and len(name.encode()) <= 200:
        return name
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', name)[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
