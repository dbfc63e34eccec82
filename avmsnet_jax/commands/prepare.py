"""Turns a collection of films into sharded records for training and evaluation.

    {program} --dataset movies --source my_films --output my_records

movies: a folder of films in any format, labeled by one of: <film stem>.keyshots.csv beside the film, with the
header start_s,end_s and a row for each key shot, in seconds; <film stem>.labels.csv, with rows of a frame
number and 0 or 1; --cuts=SUMMARIES, a folder of summaries: the shots of a cut that you have looked through
are key. Unlabeled films go to the split unlabelled, for inference. Subfolders train and test set the splits;
without them, the last 30% of the films in name order are for testing; of a single film, the last 30% of its clips.

movie50: the published layout, a folder that holds video_frames, video_audio, annotations and fold_lists.

gaze: a folder of films, each with a folder FILM.gaze of eye-tracking recordings (plain CSV with
observer,time_s,x,y; DIEM; BIDS; Tobii; EyeLink). Key frames are those at which gaze is most
concentrated, by a rule of this project: see docs/gaze.md.

tvsum, summe: the videos and .mat files as downloaded; tvsum also in the published layout.

After an interruption or a full disk, the same command resumes: finished films are not read again.
"""

import functools
import shlex
from pathlib import Path
from typing import Any

from absl import flags

from avmsnet_jax import command_line, cores, interrupts, storage, unforeseen
from avmsnet_jax.data import source_folder
from avmsnet_jax.errors import UserError

DATASET = flags.DEFINE_string("dataset", "", "what --source holds: movies, movie50, summe, tvsum or gaze")
SOURCE = flags.DEFINE_string("source", "", "folder of the collection")
OUTPUT = flags.DEFINE_string("output", "", "folder to create; give it to other commands as --config.data.dir")
FRAMES = flags.DEFINE_integer("frames", 16, "frames of a clip, a multiple of 8; --config.model.frames must agree")
FRAME_SIZE = flags.DEFINE_integer(
    "frame_size", 112, "height and width of a frame in pixels, a multiple of 16; --config.model.frame_size must agree"
)
SPACING = flags.DEFINE_integer("spacing", 25, "frames from one clip to the next")
TEST_FRACTION = flags.DEFINE_float(
    "test_fraction", 0.3, "movies, gaze: share of films for testing, if there are no subfolders train and test"
)
CUTS = flags.DEFINE_string(
    "cuts",
    "",
    "movies: a folder of summaries; cuts that a person has looked through (reviewed in FILM/cut.json) label films "
    "without a .keyshots.csv or .labels.csv",
)
SPLITS = flags.DEFINE_string("splits", None, "summe, tvsum: a JSON file of folds, instead of those of the source")
WORKERS = flags.DEFINE_integer("workers", None, "films to read at the same time (default: one per core)")
STRICT = flags.DEFINE_bool("strict", False, "fail at the first film that would be skipped")
BEAM = flags.DEFINE_string(
    "beam",
    None,
    'run on Apache Beam with these pipeline options, for example "--runner=FlinkRunner --flink_master=HOST" or, on '
    'this machine, "--direct_num_workers=4 --direct_running_mode=multi_processing"',
)

GAZE_FORMAT = flags.DEFINE_string(
    "gaze_format",
    "",
    "gaze: format of the recordings: plain, diem, bids, tobii or eyelink; empty = detected from each file",
)
GAZE_SCREEN = flags.DEFINE_string(
    "gaze_screen", "", "gaze: WIDTHxHEIGHT of the screen, in the pixels of the recordings"
)
GAZE_FILM = flags.DEFINE_string(
    "gaze_film", "", "gaze: LEFT,TOP,WIDTH,HEIGHT of the film on the screen; empty = centered, as large as fits"
)
GAZE_DEGREES = flags.DEFINE_float(
    "gaze_degrees", None, "gaze: visual angle of the film's width, in degrees", lower_bound=1
)
KEY_SHARE = flags.DEFINE_float("key_share", 0.15, "gaze: share of the frames that are key", 0, 1)
LABELS_OUT = flags.DEFINE_string(
    "labels_out",
    None,
    "gaze: also write FILM.labels.csv, FILM.concentration.csv and FILM.gaze.png of each film to this folder",
)

_DATASETS = ("movies", "movie50", "summe", "tvsum", "gaze")
_OF_GAZE = (GAZE_FORMAT, GAZE_SCREEN, GAZE_FILM, GAZE_DEGREES, KEY_SHARE)


@interrupts.listening()
def main(_: list[str]) -> None:
    """Prepares the records and prints a one-line summary."""
    command_line.require(DATASET, SOURCE, OUTPUT)
    dataset, source, output = DATASET.value, SOURCE.value, OUTPUT.value
    storage.refuse(source, "--source")
    storage.refuse(output, "--output")
    if dataset not in _DATASETS:
        raise UserError(f"--dataset is {dataset!r}; choose {', '.join(_DATASETS[:-1])} or {_DATASETS[-1]}")
    source_folder.check(source)
    if CUTS.value and dataset != "movies":
        raise UserError(f"--cuts is for movies; leave it out for {dataset}")
    screen = _numbers(GAZE_SCREEN, "x", "WIDTHxHEIGHT")
    film = _numbers(GAZE_FILM, ",", "LEFT,TOP,WIDTH,HEIGHT")
    from avmsnet_jax.data.prepare import prepare  # a second to import, which --help and wrong options should not cost
    from avmsnet_jax.data.sources.gaze import Setting

    setting = Setting(GAZE_FORMAT.value, screen, film, GAZE_DEGREES.value, KEY_SHARE.value)
    manifest = prepare(
        dataset,
        source,
        output,
        frames=FRAMES.value,
        frame_size=FRAME_SIZE.value,
        spacing=SPACING.value,
        test_fraction=TEST_FRACTION.value,
        splits=SPLITS.value,
        workers=cores.count() if WORKERS.value is None else WORKERS.value,
        strict=STRICT.value,
        beam_options=None if BEAM.value is None else shlex.split(BEAM.value),
        elsewhere=_reviewed(CUTS.value) if CUTS.value else None,
        gaze=setting if any(flag.present for flag in _OF_GAZE) else None,
        labels_out=LABELS_OUT.value,
    )
    splits = ", ".join(_account(name, split) for name, split in manifest["splits"].items())
    skipped = f"; {len(manifest['skipped'])} skipped, see manifest.json" if manifest["skipped"] else ""
    print(f"{output}: {splits}{skipped}")
    if dataset == "movies" and list(manifest["splits"]) == ["unlabelled"]:
        print("no film has labels: add FILM.keyshots.csv or --cuts=SUMMARIES, and prepare again to train")
    if count := sum(item["reason"].startswith(unforeseen.UNEXPECTED) for item in manifest["skipped"]):
        raise UserError(
            f"{count} film{'s' * (count > 1)} skipped because of an unexpected error, named above; please report it"
        )


def _reviewed(summaries: str) -> Any:
    """A function from a film to the key shots of its cut, if a person has looked through it."""
    from avmsnet_jax.summarization import reviewed
    from avmsnet_jax.summarization.cutlist import CutList

    found = reviewed.cuts(Path(summaries)).values()
    if not any(isinstance(cut, CutList) and cut.reviewed for cut in found):
        raise UserError(
            f"nobody has looked through a cut in --cuts={summaries} ({len(found)} found); correct one in its "
            "report.html, mark it as looked through, and save it"
        )
    return functools.partial(reviewed.key_shots, Path(summaries))


def _numbers(flag: flags.FlagHolder[str], mark: str, form: str) -> Any:
    """The numbers of an option such as 1280x720; None if it is empty."""
    if not flag.value:
        return None
    try:
        found = tuple(float(part) for part in flag.value.lower().split(mark))
        if len(found) != len(form.lower().split(mark)) or min(found[-2:]) <= 0:
            raise ValueError
    except ValueError:
        raise UserError(f"--{flag.name} is {flag.value!r}; give {form} in pixels") from None
    return found


def _account(name: str, split: dict[str, int]) -> str:
    films = f"{split['videos']} film{'s' * (split['videos'] > 1)}"
    key = "" if name == "unlabelled" else f", {split['positives'] / split['clips']:.1%} key"
    return f"{name}: {split['clips']} clips of {films}{key}"


def run() -> None:
    """Runs the command line."""
    command_line.run(main)
