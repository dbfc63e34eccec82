"""The scores of a network for every clip of a split."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.data import pipeline
from avmsnet_jax.models.avmsnet import AVMSNet


def score_records(
    model: AVMSNet, records: pipeline.Records, mesh: Mesh, *, batch_size: int, threads: int, workers: int = 0
) -> Iterator[dict[str, Any]]:
    """Scores every clip of `records` once, batch by batch over the mesh.

    Args:
      model: in evaluation mode.
      records: an opened split.
      mesh: the devices; `batch_size` is a multiple of them.
      batch_size: clips at once; the last batch is padded, and what pads it is left out.
      threads: threads that read ahead, of each worker if there are any.
      workers: processes that read ahead; 0 = this one does.

    Yields:
      for each clip: `video` str, `frame` int, `time_s` float, `score` float in 0-1, `label` bool, None where nobody
      has judged the film.
    """
    graphdef, state = nnx.split(model)
    state = jax.device_put(state, mesh_lib.replicated(mesh))

    @jax.jit
    def scores(state: nnx.State, clip: jax.Array, sound: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state)(clip, sound).scores

    def place(batch: pipeline.Batch) -> tuple[pipeline.Batch, tuple[jax.Array, jax.Array]]:
        return batch, mesh_lib.place_batch(mesh, (batch["clip"], batch["sound"]))

    batches = pipeline.eval_batches(records, batch_size=batch_size, threads=threads, workers=workers)
    with contextlib.closing(pipeline.ahead(batches, place)) as placed:
        for (batch, (clip, sound)), _ in placed:
            found = np.asarray(scores(state, clip, sound))
            for index in np.flatnonzero(batch["mask"]):
                label = batch["label"][index]
                yield {
                    "video": str(batch["video"][index]),
                    "frame": int(batch["frame"][index]),
                    "time_s": float(batch["time_s"][index]),
                    "score": float(found[index]),
                    "label": None if np.isnan(label) else bool(label),
                }
