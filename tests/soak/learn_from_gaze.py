"""Does a network learn as much from viewers' gaze as from the truth, and does it attend to where viewers look?

    python -m tests.soak.learn_from_gaze [--films=24] [--seconds=40] [--epochs=12]

Renders toy movies with simulated viewers, trains one network on the key shots of the scripts and one on labels from
gaze alone, and prints F of both on the key shots of the films held out, at thresholds chosen on the training films; and
the normalized scanpath saliency (NSS) of each attention module of the second network, of the attention scorer and of
the center prior there. Away from key clips the viewers' gaze is scattered, and no map can predict it but the center's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

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
    return figures(place)


def figures(place: Path) -> dict[str, Any]:
    """Evaluates both networks on the truth, and the maps of the second by gaze."""
    found = {}
    for network, records in (("movies", "movies"), ("gaze", "movies"), ("gaze", "gaze")):
        output = place / "results" / f"{network}_on_{records}"
        options = f"--config.data.dir={place / records}", f"--checkpoint={place / 'runs' / network}"
        run(
            "eval.py", "--config=configs/demo.py", *options, "--config.eval.threshold_split=train", f"--output={output}"
        )
        found[network, records] = json.loads((output / "metrics.json").read_text())
    truth, gaze = (found[network, "movies"]["fscore"] for network in ("movies", "gaze"))
    maps = found["gaze", "gaze"]["saliency"]
    nss = {part: {name: row["nss"]["mean"] for name, row in each.items()} for part, each in maps.items()}
    return {"F learned from the truth": truth, "F learned from gaze": gaze, "share": gaze / truth, "NSS": nss}


def main() -> None:
    """Prints one line of JSON; fails if less than 0.8 of F is learned, or no DAM beats the center at key clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=24)
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        facts = learned(Path(folder), **vars(arguments))
    print(json.dumps(facts))
    assert facts["share"] >= 0.8, facts
    nss = facts["NSS"]["key clips"]
    assert max(value for name, value in nss.items() if name.startswith("DAM")) > nss["center"], facts


if __name__ == "__main__":
    main()
