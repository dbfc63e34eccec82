"""Summarizing a film: its media stage against FFmpeg alone, where the time goes, and what memory it takes.

    python benchmarks/summarize_film.py --film film.mp4 --checkpoint RUN --ffmpeg ffmpeg --workdir DIR [--rounds 3]
    python benchmarks/summarize_film.py --film film.mp4 --checkpoint RUN --ffmpeg ffmpeg --workdir DIR --memory 7200

Without --memory, each round runs in turns, on all cores:
- `ffmpeg -i film -vf scale=112:112 -f null -`, which decodes picture and sound;
- the media stage: all that `scoring.film.watch` does (decode, shrink, cut clips, sound, thumbnails), the network
  replaced by zeros; in this process, once warm;
- the network alone, on as many clips;
- `scoring.film.watch` with the network, where both overlap;
- `cut.cut`, which encodes the summary.
The ratio is FFmpeg's time by the media stage's, so more is better; CPU seconds are a second opinion on a busy machine.

With --memory, the film is looped to so many seconds and summarized by the command; the peak of the process's resident
memory is measured.

Prints one line of JSON. DIR is removed at the end.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from prepare_film import loop  # noqa: E402


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, CPU seconds of this process and of those it started, and what came of it."""

    def cpu() -> float:
        both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in both)

    started, used = time.perf_counter(), cpu()
    result = work()
    return time.perf_counter() - started, cpu() - used, result


def compare(film: Path, checkpoint: str, ffmpeg: str, workdir: Path, rounds: int) -> dict[str, Any]:
    """Every stage in turns; medians of the rounds."""
    from avmsnet_jax.config import MeshConfig, SummarizeConfig
    from avmsnet_jax.data import clips
    from avmsnet_jax.scoring.film import Watched, watch
    from avmsnet_jax.scoring.network import Network
    from avmsnet_jax.scoring.scorer import ClipScores, Measured, Scorer
    from avmsnet_jax.summarization import choose, cut

    options = SummarizeConfig()
    network = Network.load(checkpoint, MeshConfig(), options.batch_size)
    kept: list[Sequence[clips.Clip]] = []

    class Blind(Network):
        """Scores every clip 0 without computing anything."""

        def measure(self, batch: Sequence[clips.Clip]) -> Measured:
            kept[:] = [batch]
            return {"scores": np.zeros(len(batch), np.float32)}

        def finish(self, measured: Measured) -> ClipScores:
            nothing = measured["scores"]
            maps = nothing[:, None, None]
            return ClipScores(nothing, nothing[:, None], (maps,), maps)

    def watched_by(scorer: Scorer) -> Watched:
        return watch(film, scorer, spacing_s=options.spacing_s)

    blind = Blind.load(checkpoint, MeshConfig(), options.batch_size)
    command = [ffmpeg, "-v", "error", "-nostdin", "-i", str(film), "-vf", "scale=112:112", "-f", "null", "-"]
    watched = watched_by(network)  # compiles
    choice = choose.choose(watched, options)
    ranges = [span for span, shot in zip(choice.ranges, choice.shots, strict=True) if shot.chosen]
    count = len(watched.scores.scores)
    stages: dict[str, Callable[[], Any]] = {
        "ffmpeg": lambda: subprocess.run(command, check=True),
        "media stage": lambda: watched_by(blind),
        "network": lambda: [network.measure(kept[0]) for _ in range(-(-count // network.batch_size))],
        "scoring": lambda: watched_by(network),
        "choosing": lambda: choose.choose(watched, options),
        "cutting": lambda: cut.cut(watched, ranges, workdir / "summary.mp4"),
    }
    watched_by(blind)
    runs = [{name: timed(stage)[:2] for name, stage in stages.items()} for _ in range(rounds)]
    seconds = {name: statistics.median(run[name][0] for run in runs) for name in stages}
    cpu = {name: statistics.median(run[name][1] for run in runs) for name in stages}
    alone = {name: seconds[name] for name in ("media stage", "network", "choosing", "cutting")}
    return {
        "ratio": [round(run["ffmpeg"][0] / run["media stage"][0], 3) for run in runs],
        "ratio of CPU seconds": [round(run["ffmpeg"][1] / run["media stage"][1], 3) for run in runs],
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "CPU seconds": {name: round(value, 2) for name, value in cpu.items()},
        "share": {name: round(value / sum(alone.values()), 3) for name, value in alone.items()},
        "clips": count,
        "film, s": round(watched.scores.duration_s, 1),
    }


def memory(film: Path, checkpoint: str, ffmpeg: str, workdir: Path, seconds: float) -> dict[str, Any]:
    """The peak of resident memory, and the time, of the command on the film over and over."""
    looped = loop(film, seconds, ffmpeg, workdir / f"looped{film.suffix}")
    arguments = [f"--checkpoint={Path(checkpoint).resolve()}", f"--output={workdir / 'out'}", "--overwrite"]
    took, cpu, _ = timed(
        lambda: subprocess.run([sys.executable, str(ROOT / "summarize.py"), str(looped), *arguments], check=True)
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"film, s": seconds, "peak, MiB": round(peak), "seconds": round(took, 1), "CPU seconds": round(cpu, 1)}


def main() -> None:
    """Measures, and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--film", type=Path, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--workdir", type=Path, required=True, help="a folder to create")
    parser.add_argument("--ffmpeg", default="ffmpeg", help="the program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=float, help="seconds to loop the film to")
    arguments = parser.parse_args()
    given = arguments.film, arguments.checkpoint, arguments.ffmpeg, arguments.workdir
    arguments.workdir.mkdir(parents=True)
    try:
        facts = memory(*given, arguments.memory) if arguments.memory else compare(*given, arguments.rounds)
    finally:
        shutil.rmtree(arguments.workdir)
    machine = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    print(json.dumps({"film": arguments.film.name, **facts, **machine}))


if __name__ == "__main__":
    main()
