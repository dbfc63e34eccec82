"""Toy movies as files: films that any player shows, with their key shots beside them."""

import concurrent.futures
import multiprocessing
import os
from pathlib import Path

from tqdm import tqdm

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.writer import write_movie
from avmsnet_jax.toy import picture, sound
from avmsnet_jax.toy.script import FPS, Script, write_script

TEST_SHARE = 0.25


def write_scripts(films: int, seconds: int, seed: int) -> dict[str, list[Script]]:
    """The scripts of a collection, by split: the same as long as the arguments are.

    Args:
      films: how many in all; a quarter of them, at least one, is for testing.
      seconds: length of each.
      seed: no two seeds below a million share a film.

    Raises:
      UserError: too few or too short to train on some and test on others.
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


def render(output: Path, *, films: int, seconds: int, seed: int) -> dict[str, list[Script]]:
    """Renders a collection: `output/{train,test}/toy_NN.mp4`, each with `toy_NN.keyshots.csv` beside it.

    Files of these names are replaced. Returns the scripts, by split.

    Raises:
      UserError: too few or too short films, or a folder that cannot be written to.
    """
    scripts = write_scripts(films, seconds, seed)
    jobs: list[tuple[Path, Script]] = []
    for split, members in scripts.items():
        try:
            (output / split).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create {output / split}: {error.strerror}; choose another --output") from None
        jobs += [(output / split / f"toy_{len(jobs) + n:02d}.mp4", script) for n, script in enumerate(members)]
    strangers = {path for split in scripts for path in (output / split).iterdir()}
    strangers -= {other for path, _ in jobs for other in (path, key_shots_path(path))}
    if strangers:
        raise UserError(f"{min(strangers)} belongs to another collection; remove it or choose another --output")
    # Forked processes would inherit JAX's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    workers = min(os.cpu_count() or 1, len(jobs))
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        done = concurrent.futures.as_completed([pool.submit(write_film, *job) for job in jobs])
        for film in tqdm(done, total=len(jobs), unit="film", disable=None):
            film.result()
    return scripts


def key_shots_path(film: Path) -> Path:
    """Where the key shots of a film are."""
    return film.with_name(f"{film.stem}.keyshots.csv")


def write_film(path: Path, script: Script) -> None:
    """Renders one script to `path` and its key shots to `<stem>.keyshots.csv` beside it."""
    rows = "".join(f"{start:.3f},{end:.3f}\n" for start, end in script.key_shots)
    try:
        key_shots_path(path).write_text("start_s,end_s\n" + rows, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {key_shots_path(path)}: {error.strerror}; choose another folder") from None
    write_movie(path, picture.frames(script), FPS, sound.waveform(script), sound.SAMPLE_RATE)
