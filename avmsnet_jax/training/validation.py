"""Validation during training, on held-out films."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax import xla
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.evaluation import average_precision, best_threshold, precision_recall_f
from avmsnet_jax.scoring.network import outputs
from avmsnet_jax.training.step import LOSSES, TrainState

Validate = Callable[[TrainState], dict[str, float | None]]


def make_validate(graphdef: Any, config: Config, held_out: pipeline.Records, mesh: Mesh) -> Validate:
    """A function that scores the held-out clips with the weights of a training state, or their EMA if it has one.

    It returns `loss` (mean over clips, unweighted), `average_precision`, `fscore` at `eval.threshold`, and
    `best_threshold`, the threshold with the highest F. All but the loss are None if no held-out clip is a key moment.
    """
    loss, replicated = LOSSES[config.train.loss], mesh_lib.replicated(mesh)
    # For this process. Rounded up to a multiple of the devices; `mask` marks the clips that are not padding.
    batch_size = -(-config.eval.batch_size // mesh.size) * mesh.size // jax.process_count()

    @jax.jit
    def losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return jax.vmap(lambda logit, label: loss(logit[None], label[None], 1.0))(logits, labels)

    # The results are replicated, so that all processes compute the same metrics.
    def score(params: nnx.State, stats: nnx.State, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, params, stats, copy=True)
        logits = outputs(model, batch["clip"], batch["sound"])["logits"]
        return {"logit": logits, "loss": losses(logits, batch["label"]), "label": batch["label"], "mask": batch["mask"]}

    scored = xla.jit(score, mesh_lib.platform(mesh), out_shardings=replicated)

    def place(batch: pipeline.Batch) -> Any:
        return mesh_lib.place_batch(mesh, {name: batch[name] for name in ("clip", "sound", "label", "mask")})

    def validate(state: TrainState) -> dict[str, float | None]:
        params = state.params if state.ema is None else state.ema
        batches = pipeline.eval_batches(
            held_out,
            batch_size=batch_size,
            threads=config.data.threads,
            workers=config.data.workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        with contextlib.closing(pipeline.Ahead(batches, place)) as placed:
            found = [jax.device_get(scored(params, state.stats, batch)) for batch, _ in placed]
        rows = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        real = rows["mask"]
        labels, logits = rows["label"][real] > 0, rows["logit"][real].astype(np.float64)
        scores = 1 / (1 + np.exp(-logits))
        mean = float(rows["loss"][real].mean())
        if not labels.any():
            return {"loss": mean, "average_precision": None, "fscore": None, "best_threshold": None}
        return {
            "loss": mean,
            "average_precision": average_precision(scores, labels),
            "fscore": precision_recall_f(scores >= config.eval.threshold, labels).fscore,
            "best_threshold": best_threshold(scores, labels)[0],
        }

    return validate
