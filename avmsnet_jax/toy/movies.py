"""Writes toy movies as MP4 files with their key shots, and on request simulated gaze, beside them."""

import concurrent.futures
import multiprocessing
import signal
import sys
from pathlib import Path

from tqdm import tqdm

from avmsnet_jax import cores, staging
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.writer import write_movie
from avmsnet_jax.toy import picture, sound, viewers
from avmsnet_jax.toy.script import FPS, Script, write_script

TEST_SHARE = 0.25


def write_scripts(films: int, seconds: int, seed: int) -> dict[str, list[Script]]:
    """The scripts of a collection, by split; the same for the same arguments.

    Args:
      films: number of films; a quarter, at least one, is for testing.
      seconds: length of each.
      seed: different seeds give different films.

    Raises:
      UserError: the films are too few or too short for training and testing, or the seed is out of range.
    """
    if films < 2:
        raise UserError(f"--films is {films}; it must be at least 2, one to train on and one to test on")
    if seconds < 10:
        raise UserError(f"--seconds is {seconds}; a film of less than 10 seconds does not hold every kind of event")
    if not 0 <= seed < 1_000_000:
        raise UserError(f"--seed is {seed}; it must be between 0 and 999999")
    scripts = [write_script(seconds, seed + 1_000_000 * number) for number in range(films)]
    tests = max(1, round(films * TEST_SHARE))
    return {"train": scripts[:-tests], "test": scripts[-tests:]}


def render(output: Path, *, films: int, seconds: int, seed: int, gaze: bool = False) -> dict[str, list[Script]]:
    """Renders a collection: `output/{train,test}/toy_NN.mp4`, each with `toy_NN.keyshots.csv`.

    `output` appears when all films are done, or not at all.

    Args:
      output: a directory that does not exist yet or is empty.
      films: number of films; a quarter, at least one, is for testing.
      seconds: length of each.
      seed: the same seed gives the same films, byte for byte with the same encoder.
      gaze: whether to also write the gaze of simulated viewers, to `toy_NN.gaze/`.

    Returns:
      the scripts, by split, in the order of the files' names.

    Raises:
      UserError: too few or too short films, or `output` is not a new or empty directory.
    """
    scripts = write_scripts(films, seconds, seed)
    if staging.taken(output):
        raise UserError(f"{output} exists and is not an empty directory; choose another --output or remove it")
    with staging.staged(output.absolute()) as stage:
        jobs: list[tuple[Path, Script]] = []
        for split, members in scripts.items():
            (stage / split).mkdir(parents=True)
            jobs += [(stage / split / f"toy_{len(jobs) + n:02d}.mp4", script) for n, script in enumerate(members)]
        # Spawn: forked processes would inherit JAX's threads in an undefined state. Workers ignore SIGINT, so that only
        # the parent reports Ctrl-C.
        with concurrent.futures.ProcessPoolExecutor(
            min(cores.count(), len(jobs)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=signal.signal,
            initargs=(signal.SIGINT, signal.SIG_IGN),
        ) as pool:
            futures = [pool.submit(write_film, *job, gaze) for job in jobs]
            try:
                done = concurrent.futures.as_completed(futures)
                for film in tqdm(done, total=len(jobs), unit="film", disable=not sys.stderr.isatty()):
                    film.result()
            finally:
                pool.shutdown(cancel_futures=True)
    return scripts


def key_shots_path(film: Path) -> Path:
    """The file of a film's key shots."""
    return film.with_name(f"{film.stem}.keyshots.csv")


def write_film(path: Path, script: Script, gaze: bool = False) -> None:
    """Renders one script to `path`, and writes its key shots and, if `gaze`, its viewers' gaze beside it."""
    write_movie(path, picture.frames(script), FPS, sound.waveform(script), sound.SAMPLE_RATE)
    rows = "".join(f"{start:.3f},{end:.3f}\n" for start, end in script.key_shots)
    key_shots_path(path).write_text("start_s,end_s\n" + rows, encoding="utf-8")
    if gaze:
        viewers.write_gaze(path.with_suffix(".gaze"), script)
