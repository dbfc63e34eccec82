"""Does a network learn as much from viewers' gaze as from the truth, and does it attend to where viewers look?

    python -m tests.soak.learn_from_gaze [--films=24] [--seconds=40] [--epochs=12]

Renders toy movies with simulated viewers, trains one network on the key shots of the scripts and one on labels from
gaze alone, and prints F of both on the key shots of the test films, at thresholds chosen on the training films.

Also prints how well each attention map of the second network, the attention scorer and the center prior predict gaze on
the test films: the normalized scanpath saliency (NSS) and shuffled AUC. The simulated viewers are drawn to the center
where nothing else draws them. "even" gives the figures for viewers who then look at all places equally often.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from avmsnet_jax.toy import movies, viewers

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> None:
    """Runs a command of the repository."""
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True)


def learned(place: Path, films: int, seconds: int, epochs: int) -> dict[str, Any]:
    """The figures, as `main` prints them."""
    run("-m", "avmsnet_jax.toy", f"--output={place / 'films'}", f"--films={films}", f"--seconds={seconds}", "--gaze")
    for name, options in (("movies", []), ("gaze", ["--key_share=0.2"])):
        folders = f"--source={place / 'films'}", f"--output={place / name}"
        run("prepare_data.py", f"--dataset={name}", *folders, "--frame_size=48", *options)
        records, workdir = f"--config.data.dir={place / name}", f"--workdir={place / 'runs' / name}"
        run("train.py", "--config=configs/demo.py", records, workdir, f"--config.train.epochs={epochs}")
    write_even(place, films, seconds)
    return figures(place)


def write_even(place: Path, films: int, seconds: int) -> None:
    """Prepares the test films with viewers who look at all places equally often where nothing draws them."""
    scripts = movies.write_scripts(films, seconds, seed=0)["test"]
    folder = place / "even_films" / "test"
    folder.mkdir(parents=True)
    for film, script in zip(sorted((place / "films" / "test").glob("*.mp4")), scripts, strict=True):
        shutil.copy(film, folder)
        viewers.write_gaze(folder / f"{film.stem}.gaze", script, lambda rng: rng.uniform(0.02, 0.98, 2))
    folders = f"--source={folder.parent}", f"--output={place / 'even'}"
    run("prepare_data.py", "--dataset=gaze", *folders, "--frame_size=48", "--key_share=0.2")


def evaluated(place: Path, network: str, records: str, *options: str) -> dict[str, Any]:
    """The metrics of a network on the test films of `records`."""
    output = place / "results" / f"{network}_on_{records}"
    places = f"--config.data.dir={place / records}", f"--checkpoint={place / 'runs' / network}", f"--output={output}"
    run("eval.py", "--config=configs/demo.py", *places, *options)
    return json.loads((output / "metrics.json").read_text())


def figures(place: Path) -> dict[str, Any]:
    """Evaluates both networks on the truth, and the maps of the second by gaze."""
    truth, gaze = (
        evaluated(place, network, "movies", "--config.eval.threshold_split=train")["fscore"]
        for network in ("movies", "gaze")
    )
    found: dict[str, Any] = {"F learned from the truth": truth, "F learned from gaze": gaze, "share": gaze / truth}
    for viewers_of in ("gaze", "even"):
        maps = evaluated(place, "gaze", viewers_of)["saliency"]
        found[viewers_of] = {
            measure: {part: {name: row[measure]["mean"] for name, row in each.items()} for part, each in maps.items()}
            for measure in ("nss", "auc_shuffled")
        }
    return found


def main() -> None:
    """Prints one line of JSON.

    Fails if less than 0.8 of F is learned, or if no DAM has a higher NSS than the center prior at key clips, and at all
    clips for viewers without a center bias.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=24)
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        facts = learned(Path(folder), **vars(arguments))
    print(json.dumps(facts))
    assert facts["share"] >= 0.8, facts
    for nss in (facts["gaze"]["nss"]["key clips"], facts["even"]["nss"]["all clips"]):
        assert max(value for name, value in nss.items() if name.startswith("DAM")) > nss["center"], facts


if __name__ == "__main__":
    main()
