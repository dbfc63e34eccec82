"""Renders toy movies: a folder to train on, a folder to test on, and the key shots beside each film.

    python -m avmsnet_jax.toy --output toy_movies

A red ball bounces with a boing; a blue square flashes with a chirp. A key moment is one at which an object is seen
with its own sound. Objects also appear in silence or with the other object's sound, and sounds occur without an
object, so neither picture nor sound alone is enough. With --gaze, simulated viewers look at the object at key
moments: see docs/gaze.md.
"""

import sys
from pathlib import Path

from absl import flags

from avmsnet_jax import command_line

OUTPUT = flags.DEFINE_string("output", "", "folder to create: train/*.mp4 and test/*.mp4, each with a .keyshots.csv")
FILMS = flags.DEFINE_integer("films", 24, "number of films; a quarter, at least one, is for testing")
SECONDS = flags.DEFINE_integer(
    "seconds", 40, "length of each film in seconds; each second except the first is one clip"
)
SEED = flags.DEFINE_integer("seed", 0, "random seed; the same seed gives the same films")
GAZE = flags.DEFINE_bool("gaze", False, "also write FILM.gaze/, the gaze of simulated viewers, beside each film")


def main(_: list[str]) -> None:
    """Renders the films and prints a one-line summary."""
    command_line.require(OUTPUT)
    from avmsnet_jax.toy import movies  # seconds to import, which --help and wrong options should not cost

    scripts = movies.render(
        Path(OUTPUT.value), films=FILMS.value, seconds=SECONDS.value, seed=SEED.value, gaze=GAZE.value
    )
    line = ", ".join(
        f"{split}: {len(films)} films, {sum(len(film.key_shots) for film in films)} key moments"
        for split, films in scripts.items()
    )
    print(f"{OUTPUT.value}: {line}")


if __name__ == "__main__":
    sys.argv[0] = "-m avmsnet_jax.toy"  # what the user typed, for help and error messages
    command_line.run(main)
