"""Summarizing a film: compared with FFmpeg alone, where the time goes, and what memory it takes.

    python benchmarks/summarize_film.py --film film.mp4 [--checkpoint RUN] --workdir DIR [--rounds 3]
    python benchmarks/summarize_film.py --film film.mp4 [--checkpoint RUN] --workdir DIR --memory 7200

The scorer is the network of a checkpoint or, without --checkpoint, attention. Each round runs in turns, on all cores:
- `ffmpeg -i film -vf scale=112:112 -f null -`, which decodes picture and sound;
- the media stage: all that `scoring.film.watch` does (decode, shrink, cut clips, sound, thumbnails), the scorer
  replaced by zeros; in this process, once warm;
- the scorer alone, on as many clips;
- `scoring.film.watch` with the scorer, where both overlap;
- `cut.cut`, which encodes the summary.
The ratios are FFmpeg's time by that of the media stage and of `watch`, so more is better; CPU seconds are a second
opinion on a busy machine. For attention, the share of each signal in the scorer's time is given, too.

With --memory, the film is looped to so many seconds and summarized by the command; the peak of the process's resident
memory is measured.

Prints one line of JSON. DIR is removed at the end.
"""

import argparse
import cProfile
import json
import os
import platform
import pstats
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, CPU seconds of this process and of those it started, and what came of it."""

    def cpu() -> float:
        both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in both)

    started, used = time.perf_counter(), cpu()
    result = work()
    return time.perf_counter() - started, cpu() - used, result


# The functions that measure what each signal of attention is made of; those that serve several are under "shared".
SIGNALS = {
    "motion": ("picture._flow",),
    "sound": ("sound._teager",),
    "picture": ("picture._spectral_residual",),
    "novelty": ("picture._colors", "picture._gradients", "picture._edges", "sound._timbre"),
    "agreement": ("picture._change",),
    "quality": ("picture._uniformity", "picture._dissolve"),
}


def signal_shares(batches: Sequence[Sequence[Any]]) -> dict[str, float]:
    """The share of each signal in the time that attention takes to measure clips, profiled."""
    from avmsnet_jax.scoring.attention import Attention

    scorer, profile = Attention(), cProfile.Profile()
    scorer.measure(batches[0])  # imports and tables
    profile.runcall(lambda: [scorer.measure(batch) for batch in batches])
    times = {
        f"{Path(file).stem}.{name}": cumulative
        for (file, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    }
    whole = times["attention.measure"]
    shares = {signal: sum(times[name] for name in names) / whole for signal, names in SIGNALS.items()}
    return {name: round(share, 3) for name, share in {**shares, "shared": 1 - sum(shares.values())}.items()}


class Blind:
    """A `Scorer` that takes clips as another one does, and scores each 0 without computing anything."""

    name: Literal["network", "attention"] = "attention"
    learned_from_people = False

    def __init__(self, scorer: Any):
        self.frames, self.frame_size, self.batch_size = scorer.frames, scorer.frame_size, scorer.batch_size
        self.picture = scorer.picture
        self.batches: list[Sequence[Any]] = []

    def measure(self, batch: Sequence[Any]) -> dict[str, np.ndarray]:
        """Keeps the first few batches."""
        if len(self.batches) < 4:
            self.batches.append(batch)
        return {"scores": np.zeros(len(batch), np.float32)}

    def finish(self, measured: Any) -> Any:
        """Scores of 0."""
        from avmsnet_jax.scoring.scorer import ClipScores

        nothing = measured["scores"]
        maps = nothing[:, None, None]
        return ClipScores(nothing, nothing[:, None], (maps,), maps)


def compare(film: Path, checkpoint: str, ffmpeg: str, workdir: Path, rounds: int) -> dict[str, Any]:
    """Every stage in turns; medians of the rounds."""
    from avmsnet_jax.config import MeshConfig, SummarizeConfig
    from avmsnet_jax.scoring.attention import Attention
    from avmsnet_jax.scoring.film import Watched, watch
    from avmsnet_jax.scoring.network import Network
    from avmsnet_jax.scoring.scorer import Scorer
    from avmsnet_jax.summarization import choose, cut

    options = SummarizeConfig()
    scorer: Scorer = Network.load(checkpoint, MeshConfig(), options.batch_size) if checkpoint else Attention()
    blind = Blind(scorer)

    def watched_by(scorer: Scorer) -> Watched:
        return watch(film, scorer, spacing_s=options.spacing_s)

    command = [ffmpeg, "-v", "error", "-nostdin", "-i", str(film), "-vf", "scale=112:112", "-f", "null", "-"]
    watched = watched_by(scorer)  # compiles
    choice = choose.choose(watched, options)
    ranges = [span for span, shot in zip(choice.ranges, choice.shots, strict=True) if shot.chosen]
    count = len(watched.scores.scores)
    stages: dict[str, Callable[[], Any]] = {
        "ffmpeg": lambda: subprocess.run(command, check=True),
        "media stage": lambda: watched_by(blind),
        "scorer": lambda: [
            scorer.measure(blind.batches[number % len(blind.batches)])
            for number in range(-(-count // scorer.batch_size))
        ],
        "watching": lambda: watched_by(scorer),
        "choosing": lambda: choose.choose(watched, options),
        "cutting": lambda: cut.cut(watched, ranges, workdir / "summary.mp4"),
    }
    watched_by(blind)
    runs = [{name: timed(stage)[:2] for name, stage in stages.items()} for _ in range(rounds)]
    seconds = {name: statistics.median(run[name][0] for run in runs) for name in stages}
    cpu = {name: statistics.median(run[name][1] for run in runs) for name in stages}
    alone = {name: seconds[name] for name in ("media stage", "scorer", "choosing", "cutting")}
    return {
        "scorer": scorer.name,
        **{
            f"ratio of {stage}{', CPU' * number}": [
                round(run["ffmpeg"][number] / run[stage][number], 3) for run in runs
            ]
            for stage in ("media stage", "watching")
            for number in (0, 1)
        },
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "CPU seconds": {name: round(value, 2) for name, value in cpu.items()},
        "share": {name: round(value / sum(alone.values()), 3) for name, value in alone.items()},
        "clips": count,
        "film, s": round(watched.scores.duration_s, 1),
        **({} if checkpoint else {"share of the scorer": signal_shares(blind.batches)}),
    }


def memory(film: Path, checkpoint: str, ffmpeg: str, workdir: Path, seconds: float) -> dict[str, Any]:
    """The peak of resident memory, and the time, of the command on the film over and over."""
    looped = workdir / f"looped{film.suffix}"
    command = [ffmpeg, "-v", "error", "-nostdin", "-stream_loop", "-1", "-i", str(film), "-t", str(seconds)]
    subprocess.run([*command, "-c", "copy", str(looped)], check=True)  # repeated, not encoded again
    arguments = [f"--output={workdir / 'out'}", *([f"--checkpoint={Path(checkpoint).resolve()}"] if checkpoint else [])]
    took, cpu, _ = timed(
        lambda: subprocess.run([sys.executable, str(ROOT / "summarize.py"), str(looped), *arguments], check=True)
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"film, s": seconds, "peak, MiB": round(peak), "seconds": round(took, 1), "CPU seconds": round(cpu, 1)}


def main() -> None:
    """Measures, and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--film", type=Path, required=True)
    parser.add_argument("--checkpoint", default="", help="of a network; empty = attention")
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
