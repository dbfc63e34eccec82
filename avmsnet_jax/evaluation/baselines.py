"""The measures of scores and of random and uniform ones on TVSum and SumMe."""

import dataclasses
import zlib

import numpy as np

from avmsnet_jax.config import Config
from avmsnet_jax.data.cache import local_records
from avmsnet_jax.data.manifest import read_manifest
from avmsnet_jax.evaluation import summe, tvsum
from avmsnet_jax.evaluation.annotations import Judged
from avmsnet_jax.evaluation.protocol import BUDGET, Protocol, Values
from avmsnet_jax.evaluation.score_files import Scored
from avmsnet_jax.evaluation.selection import frame_scores, summary

PROTOCOLS = {"tvsum": tvsum.PROTOCOL, "summe": summe.PROTOCOL}

DRAWS = 100  # of random scores
_CORRELATED_DRAWS = 10  # draws for TVSum's tau and rho, which are slow for 20 users; their expectation is 0

ATTENTION = "formulas for what draws human attention, not learned from people"
BASELINES = {
    "random": f"scores drawn evenly from 0 to 1 for each pick, mean of {DRAWS} draws ({_CORRELATED_DRAWS} for TVSum's "
    "tau and rho)",
    "uniform": "equal scores, which have no tau and rho, and a summary of evenly spaced segments of the mean shot's "
    "length",
    "human": "each user in turn against the others, mean over users",
}


def protocol_of(config: Config) -> str:
    """The default protocol of the records: TVSum's or SumMe's if they hold users' judgments, else movie50."""
    manifest = read_manifest(local_records(config.data))
    return manifest.dataset if manifest.annotations and manifest.dataset in PROTOCOLS else "movie50"


def of_scores(protocol: Protocol, video: Judged, scored: Scored) -> Values:
    """The measures of a video's scores; those of the summary only if the shots are known."""
    frames = frame_scores(scored.scores, scored.picks, video.n_frames)
    chosen = None if video.shots is None else summary(frames, video.shots, BUDGET)
    return protocol.measure(video, frames, chosen)


def of_random(protocol: Protocol, video: Judged) -> Values:
    """The mean of `of_scores` over random scores. The seed is the video's name, so other videos change nothing."""
    rng = np.random.default_rng(zlib.crc32(video.name.encode()))
    found: dict[str, list[float]] = {}
    for draw in range(DRAWS):
        scored = Scored(video.picks, rng.random(len(video.picks)))
        unscored = dataclasses.replace(video, user_scores=None) if draw >= _CORRELATED_DRAWS else video
        for name, value in of_scores(protocol, unscored, scored).items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def of_uniform(protocol: Protocol, video: Judged) -> Values:
    """The measures of equal scores and of an evenly spaced summary."""
    return protocol.measure(video, np.ones(video.n_frames), evenly_spaced(video))


def evenly_spaced(video: Judged) -> np.ndarray | None:
    """(n_frames,) bool: 15% of the frames in pieces of the mean shot's length at even distances; None without shots."""
    if video.shots is None:
        return None
    pieces = max(round(BUDGET * len(video.shots)), 1)
    total = int(BUDGET * video.n_frames)
    lengths = np.diff(np.arange(pieces + 1) * total // pieces)
    middles = (np.arange(pieces) + 0.5) * video.n_frames / pieces
    chosen = np.zeros(video.n_frames, bool)
    for middle, length in zip(middles, lengths, strict=True):
        first = int(middle - length / 2)
        chosen[first : first + length] = True
    return chosen
