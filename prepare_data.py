"""Turns a collection of films into sharded records that train.py and eval.py read.

    python prepare_data.py --dataset movies --source my_films --output my_records

movies: a folder of films in any format, with <film stem>.keyshots.csv beside each: the header
start_s,end_s and a row for each key shot, in seconds. Films in the subfolders train and test belong to
these; without such subfolders, the last 30% of the films in name order are for testing, or the last 30%
of a single film.

movie50, tvsum: the published layout, a folder that holds video_frames, video_audio, annotations and fold_lists.
"""

from absl import flags

from avmsnet_jax import command
from avmsnet_jax.errors import UserError

DATASET = flags.DEFINE_string("dataset", "", "what --source holds: movies, movie50 or tvsum")
SOURCE = flags.DEFINE_string("source", "", "folder of the collection")
OUTPUT = flags.DEFINE_string("output", "", "folder to create, later --config.data.dir")
FRAMES = flags.DEFINE_integer("frames", 16, "frames of a clip, a multiple of 8; --config.model.frames must agree")
FRAME_SIZE = flags.DEFINE_integer(
    "frame_size", 112, "height and width of a frame in pixels, a multiple of 16; --config.model.frame_size must agree"
)
SPACING = flags.DEFINE_integer("spacing", 25, "frames from one clip to the next")
TEST_FRACTION = flags.DEFINE_float("test_fraction", 0.3, "movies: share of the test split, where no subfolders say")


def main(_: list[str]) -> None:
    """Prepares, and says in one line what there is now."""
    command.require(DATASET, SOURCE, OUTPUT)
    dataset, source, output = DATASET.value, SOURCE.value, OUTPUT.value
    if dataset not in ("movies", "movie50", "tvsum"):
        raise UserError(f"--dataset is {dataset!r}; choose movies, movie50 or tvsum")
    from avmsnet_jax.data.prepare import prepare  # seconds to import: not for --help or a wrong flag

    manifest = prepare(
        dataset,
        source,
        output,
        frames=FRAMES.value,
        frame_size=FRAME_SIZE.value,
        spacing=SPACING.value,
        test_fraction=TEST_FRACTION.value,
    )
    splits = ", ".join(
        f"{name}: {split['clips']} clips of {split['videos']} film{'s' * (split['videos'] > 1)}, "
        f"{split['positives'] / split['clips']:.1%} key"
        for name, split in manifest["splits"].items()
    )
    skipped = f"; {len(manifest['skipped'])} skipped, see manifest.json" if manifest["skipped"] else ""
    print(f"{output}: {splits}{skipped}")


if __name__ == "__main__":
    command.run(main)
