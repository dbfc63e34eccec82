"""The Python API for one film: `score` and `summarize`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from avmsnet_jax.config import Config, MeshConfig
from avmsnet_jax.errors import UserError
from avmsnet_jax.scoring.attention import Attention
from avmsnet_jax.scoring.film import Scores, watch
from avmsnet_jax.scoring.scorer import Scorer
from avmsnet_jax.summarization import run

if TYPE_CHECKING:
    from avmsnet_jax.models.avmsnet import AVMSNet

_BATCH = 8  # clips per forward pass


def score(film: str | os.PathLike[str], model: "AVMSNet | None" = None, *, spacing_s: float = 1.0) -> Scores:
    """Scores the moments of a film.

    Args:
      film: a film in any format that FFmpeg reads.
      model: a network from `avmsnet_jax.load`; None = the attention scorer, which needs no training.
      spacing_s: seconds between scored moments.

    Returns:
      `times_s` (N,) float64 in seconds, `scores` (N,) float32 in 0-1, and, from the attention scorer, `signals`: a dict
      of the (N,) float32 in 0-1 that the scores are computed from. See `Scores` for the other fields.

    Raises:
      UserError: the film is missing or broken, or the network's scores are NaN.
    """
    return watch(Path(film), _scorer(model), spacing_s=spacing_s).scores


def summarize(
    film: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: "AVMSNet | None" = None,
    budget: str = "15%",
    *,
    overwrite: bool = False,
) -> Path:
    """Writes a film's summary and its report.

    Args:
      film: a film in any format that FFmpeg reads.
      output: a folder; the summary goes to a subfolder named after the film, with `summary.mp4`, `report.html` and
        the other files that `avmsnet summarize` writes.
      model: as for `score`.
      budget: a share of the film (15%), a duration (90s, 2min, 1:30) or a number of shots (12shots).
      overwrite: replace an earlier summary of the film.

    Returns:
      the subfolder.

    Raises:
      UserError: the film cannot be summarized, or its output folder exists and is not replaced.
    """
    config = Config().replace(summarize={"budget": budget})
    outcome = run.summarize_by(_scorer(model), Path(film), output, config, overwrite=overwrite)
    if outcome.error:
        raise UserError(outcome.error)
    if outcome.skipped:
        raise UserError(f"{outcome.folder} has a summary already; give overwrite=True, or another output folder")
    return outcome.folder


def _scorer(model: "AVMSNet | None") -> Scorer:
    if model is None:
        return Attention()
    # Imported here, because only networks need JAX.
    from avmsnet_jax.mesh import make_mesh
    from avmsnet_jax.scoring.network import Network

    return Network(model, make_mesh(MeshConfig()), _BATCH)
