"""Renders toy movies: a folder to train on, a folder to test on, and the key shots beside each film.

    python -m avmsnet_jax.toy --output toy_movies

A red ball bounces with a boing; a blue square flashes with a chirp. A key moment is one at which an object is seen
with its own sound. Objects also appear in silence or with the other's sound, and sounds without an object, so neither
picture nor sound alone is enough. With --gaze, simulated viewers look at the object at key moments: see docs/gaze.md.
"""

import sys
from pathlib import Path

from absl import flags

from avmsnet_jax import command_line
from avmsnet_jax.errors import UserError

OUTPUT = flags.DEFINE_string(
    "output", None, "folder to create, of train/*.mp4 and test/*.mp4 with their *.keyshots.csv"
)
FILMS = flags.DEFINE_integer("films", 24, "films in all; a quarter of them, at least one, is for testing")
SECONDS = flags.DEFINE_integer("seconds", 40, "length of a film in seconds; each second but the first is one clip")
SEED = flags.DEFINE_integer("seed", 0, "films of one seed are the same")
GAZE = flags.DEFINE_bool("gaze", False, "write FILM.gaze/, the gaze of simulated viewers, beside each film, too")


def main(_: list[str]) -> None:
    """Renders, and prints a summary of one line."""
    if not OUTPUT.value:
        raise UserError("--output is missing (--help lists all options)")
    from avmsnet_jax.toy import movies  # seconds to import: not for --help or a wrong flag

    scripts = movies.render(
        Path(OUTPUT.value), films=FILMS.value, seconds=SECONDS.value, seed=SEED.value, gaze=GAZE.value
    )
    line = ", ".join(
        f"{split}: {len(films)} films, {sum(len(film.key_shots) for film in films)} key moments"
        for split, films in scripts.items()
    )
    print(f"{OUTPUT.value}: {line}")


if __name__ == "__main__":
    sys.argv[0] = "-m avmsnet_jax.toy"  # what the user typed, for help and errors
    command_line.run(main)
