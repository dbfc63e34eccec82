"""Preparing one film against FFmpeg decoding and shrinking its picture alone; and what memory preparing takes.

    python benchmarks/prepare_film.py --film film.mp4 --ffmpeg ffmpeg --workdir DIR [--rounds 5]
    python benchmarks/prepare_film.py --film film.mp4 --ffmpeg ffmpeg --workdir DIR --memory

Without --memory, each round runs both sides on all cores, in turns:
- `ffmpeg -i film -an -vf scale=112:112 -f null -`;
- `prepare("movies", ...)` with sound, in a process of its own, timed from the call to its end. What the process
  needs before, to start and to import, is stated apart.
The ratio is FFmpeg's time by ours, so more is better; CPU seconds are a second opinion on a busy machine.

With --memory, the film is looped to ten minutes and to two hours, both are prepared, and the peak of the process's
resident memory is measured.

Prints one line of JSON. FFmpeg comes from apt-get, or in the wheel of imageio-ffmpeg. DIR is removed at the end.
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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def prepare_here(source: str, output: str) -> None:
    """Prepares, and prints what it took: this is what the processes of the benchmark do."""
    from avmsnet_jax.data.prepare import prepare

    started, used = time.perf_counter(), time.process_time()
    manifest = prepare("movies", source, output)
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of one film, prepared in this process
    (film,) = manifest["videos"]
    facts = {
        "seconds": seconds,
        "cpu_s": cpu,
        "peak_mib": peak / 1024,
        "frames": film["frames"],
        "clips": film["clips"],
    }
    print(json.dumps(facts))


def ours(film: Path, workdir: Path) -> dict[str, Any]:
    """Prepares a film in a process of its own."""
    source, output = workdir / "source", workdir / "records"
    source.mkdir(parents=True)
    (source / film.name).symlink_to(film.resolve())
    (source / f"{film.stem}.keyshots.csv").write_text("start_s,end_s\n0,60\n")
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--process", str(source), str(output)], stdout=subprocess.PIPE, check=True
    )
    wall = time.perf_counter() - started
    facts: dict[str, Any] = json.loads(done.stdout)
    shutil.rmtree(source)
    shutil.rmtree(output)
    return facts | {"start_s": wall - facts["seconds"]}


def theirs(film: Path, ffmpeg: str) -> dict[str, float]:
    """Decodes the film's picture and scales it, with FFmpeg's own program."""
    command = [ffmpeg, "-v", "error", "-nostdin", "-i", str(film), "-an", "-vf", "scale=112:112", "-f", "null", "-"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def compare(film: Path, ffmpeg: str, workdir: Path, rounds: int) -> dict[str, Any]:
    """Both sides in turns; median, least and most of the rounds."""
    runs = [(theirs(film, ffmpeg), ours(film, workdir)) for _ in range(rounds)]

    def spread(values: list[float]) -> dict[str, float]:
        return {
            "median": round(statistics.median(values), 3),
            "least": round(min(values), 3),
            "most": round(max(values), 3),
        }

    return {
        "ratio": spread([a["seconds"] / b["seconds"] for a, b in runs]),
        "ratio of CPU seconds": spread([a["cpu_s"] / b["cpu_s"] for a, b in runs]),
        "ffmpeg, s": spread([a["seconds"] for a, _ in runs]),
        "prepare, s": spread([b["seconds"] for _, b in runs]),
        "ffmpeg, CPU s": spread([a["cpu_s"] for a, _ in runs]),
        "prepare, CPU s": spread([b["cpu_s"] for _, b in runs]),
        "start and imports, s": spread([b["start_s"] for _, b in runs]),
        "peak, MiB": spread([b["peak_mib"] for _, b in runs]),
        "frames": runs[0][1]["frames"],
        "clips": runs[0][1]["clips"],
        "rounds": rounds,
    }


def loop(film: Path, seconds: float, ffmpeg: str, path: Path) -> Path:
    """The film over and over, for so many seconds, not encoded again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [ffmpeg, "-v", "error", "-nostdin", "-stream_loop", "-1", "-i", str(film), "-t", str(seconds)]
    subprocess.run([*command, "-c", "copy", str(path)], check=True)
    return path


def memory(film: Path, ffmpeg: str, workdir: Path) -> dict[str, Any]:
    """The peak of resident memory for ten minutes and for two hours of a film."""
    facts = {}
    for name, seconds in (("ten minutes", 600), ("two hours", 7200)):
        looped = loop(film, seconds, ffmpeg, workdir / f"looped{film.suffix}")
        run = ours(looped, workdir)
        looped.unlink()
        facts[name] = {key: run[key] for key in ("frames", "clips")} | {
            key: round(run[key], 1) for key in ("peak_mib", "seconds", "cpu_s")
        }
    ratio = facts["two hours"]["peak_mib"] / facts["ten minutes"]["peak_mib"]
    return facts | {"two hours by ten minutes": round(ratio, 3)}


def main() -> None:
    """Measures, and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--film", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True, help="a folder to create")
    parser.add_argument("--ffmpeg", default="ffmpeg", help="the program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True)
    try:
        if arguments.memory:
            facts = memory(arguments.film, arguments.ffmpeg, arguments.workdir)
        else:
            facts = compare(arguments.film, arguments.ffmpeg, arguments.workdir, arguments.rounds)
    finally:
        shutil.rmtree(arguments.workdir)
    version = subprocess.run([arguments.ffmpeg, "-version"], capture_output=True, text=True, check=True).stdout
    machine = {"ffmpeg": version.split()[2], "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    print(json.dumps({"film": arguments.film.name, **facts, **machine}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        prepare_here(*sys.argv[2:])
    else:
        main()
