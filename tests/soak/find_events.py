"""Does a network that was trained on toy movies find their loud, visible events in a long film where they are rare?

    python -m tests.soak.find_events --checkpoint=demo/run [--films=4] [--seconds=120] [--budget=0.15]

Renders films in which a twentieth of all moments are key events (seen and heard together), beside others that are only
seen, only heard, or do not belong together; summarizes them; and prints how many of the key events the
summaries show at least half of.
"""

import argparse
import json
import tempfile
from pathlib import Path

from avmsnet_jax.config import MeshConfig, SummarizeConfig
from avmsnet_jax.scoring.film import watch
from avmsnet_jax.scoring.network import Network
from avmsnet_jax.summarization import choose
from avmsnet_jax.toy import movies, script

SHARES = {"key": 0.05, "sight": 0.15, "sound": 0.15, "mismatch": 0.05, "nothing": 0.6}


def held(checkpoint: str, films: int, seconds: int, budget: str) -> dict[str, float]:
    """How many key events the summaries show, and the summaries' length as a share of the films'."""
    options = SummarizeConfig(budget=budget)
    network = Network.load(checkpoint, MeshConfig(), options.batch_size)
    events = found = 0
    length = total = 0.0
    script.SHARES.update(SHARES)
    for seed in range(films):
        written = script.write_script(seconds, 770_000_000 + seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.mp4"
            movies.write_film(path, written)
            watched = watch(path, network)
            choice = choose.choose(watched, options)
        assert choice.length_s <= choice.budget_s + 1e-9
        for start, end in written.key_shots:
            inside = sum(
                max(min(end, shot.end_s) - max(start, shot.start_s), 0) for shot in choice.shots if shot.chosen
            )
            events += 1
            found += inside >= 0.5 * (end - start)
        length, total = length + choice.length_s, total + watched.scores.duration_s
    return {"events": events, "held": found, "share held": found / events, "summary": length / total}


def main() -> None:
    """Prints one line of JSON; fails if the summaries show less than 80% of the key events."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--films", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--budget", default="0.15")
    arguments = parser.parse_args()
    facts = held(**vars(arguments))
    print(json.dumps(facts))
    assert facts["share held"] >= 0.8, facts


if __name__ == "__main__":
    main()
