"""The scores of a network for every clip of a split, and the score from which on a clip is key."""

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from tqdm import tqdm

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax import xla
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation.metrics import best_threshold
from avmsnet_jax.models.avmsnet import AVMSNet

# Clips that a device computes at once. Never more or fewer: the last bits of a score depend on it, and the batch size
# shall not show in any figure. On CPU one at a time, at a fifth of the speed lost: products of several rows are added
# up in an order that changes with XLA's threads. Some convolutions of small frames still do so, and XLA keeps a thread
# a device: 8 devices that are simulated on a CPU of 2 cores can change a score by some 1e-7.
_AT_ONCE = {"cpu": 1}
_AT_ONCE_ELSEWHERE = 16


def score_records(
    model: AVMSNet,
    records: pipeline.Records,
    mesh: Mesh,
    *,
    batch_size: int,
    threads: int,
    workers: int = 0,
    features: bool = False,
) -> Iterator[dict[str, Any]]:
    """Scores every clip of `records` once. The batch size changes no bit of what comes out.

    Args:
      model: in evaluation mode.
      records: an opened split.
      mesh: the devices.
      batch_size: clips that are read, and put on the devices, at once; rounded up to what the devices share evenly.
        The last batch is padded, and what pads it is left out.
      threads: threads that read ahead, of each worker if there are any.
      workers: processes that read ahead; 0 = this one does.
      features: also yield what the trunk makes of each clip.

    Yields:
      for each clip: `video` str, `frame` int, `time_s` float, `score` float in 0-1, `label` bool, None where nobody
      has judged the film, and, if asked for, `features` (C,) float32.

    Raises:
      UserError: the network's scores are NaN.
    """
    graphdef, state = nnx.split(model)
    state = jax.device_put(state, mesh_lib.replicated(mesh))
    share = _AT_ONCE.get(mesh_lib.platform(mesh), _AT_ONCE_ELSEWHERE) * mesh.size

    def place(batch: pipeline.Batch) -> tuple[pipeline.Batch, list[tuple[jax.Array, jax.Array]]]:
        parts = [slice(at, at + share) for at in range(0, len(batch["mask"]), share)]
        return batch, [mesh_lib.place_batch(mesh, (batch["clip"][part], batch["sound"][part])) for part in parts]

    batch_size = -(-batch_size // share) * share
    batches = pipeline.eval_batches(records, batch_size=batch_size, threads=threads, workers=workers)
    with contextlib.closing(pipeline.Ahead(batches, place)) as placed:
        for (batch, parts), _ in placed:
            # All are on their way before the first is waited for.
            forward = _compiled_forward(mesh_lib.platform(mesh))
            found = jax.device_get([forward(graphdef, mesh, features, state, *part) for part in parts])
            scores = np.concatenate([part[0] for part in found])
            seen = np.concatenate([part[1] for part in found]) if features else None
            for index in np.flatnonzero(batch["mask"]):
                if not np.isfinite(scores[index]):
                    raise UserError(
                        f"{batch['video'][index]}: the network's score is NaN or infinite; convert or train it again"
                    )
                label = batch["label"][index]
                yield {
                    "video": str(batch["video"][index]),
                    "frame": int(batch["frame"][index]),
                    "time_s": float(batch["time_s"][index]),
                    "score": float(scores[index]),
                    "label": None if np.isnan(label) else bool(label),
                    **({} if seen is None else {"features": seen[index]}),
                }


def score_split(
    config: Config, model: AVMSNet, records: pipeline.Records, *, features: bool = False
) -> list[dict[str, Any]]:
    """Scores every clip of an opened split as `config` says (`data`, `mesh`, `eval.batch_size`), with a progress bar.

    Returns:
      what `score_records` yields.

    Raises:
      UserError: there are no clips, nobody has judged them, or there are fewer devices than the mesh takes.
    """
    pipeline.check_labelled(records)
    if not len(records):
        raise UserError(f"{records.directory} has no clips in split {records.split}, fold {records.fold}; test another")
    scored = score_records(
        model,
        records,
        mesh_lib.make_mesh(config.mesh),
        batch_size=config.eval.batch_size,
        threads=config.data.threads,
        workers=config.data.workers,
        features=features,
    )
    return list(tqdm(scored, total=len(records), unit="clip", disable=not sys.stderr.isatty()))


def choose_threshold(config: Config, model: AVMSNet, fold: int, judged: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """The score from which on a clip is called key: `eval.threshold`, or the best on `eval.threshold_split`.

    Never the best on the clips that are judged by it: a threshold chosen there flatters the network.

    Args:
      config: the configuration.
      model: the network.
      fold: which of the data set's divisions.
      judged: the clips, as `score_records` yields them, that are to be judged.

    Returns:
      the threshold, and where it is from.

    Raises:
      UserError: the other split has some of the same clips, or no key clip.
    """
    split = config.eval.threshold_split
    if not split:
        return config.eval.threshold, "eval.threshold"
    clips = score_split(config, model, pipeline.open_split(config.data.dir, split, model.config, fold))
    same = {(clip["video"], clip["frame"]) for clip in clips} & {(clip["video"], clip["frame"]) for clip in judged}
    if same:
        raise UserError(
            f"eval.threshold_split={split} has clips of {min(same)[0]} that are to be judged by the threshold; choose "
            "it on other films, or leave it out for --config.eval.threshold"
        )
    if not any(clip["label"] for clip in clips):
        raise UserError(
            f"no clip of eval.threshold_split={split} in {config.data.dir} is a key moment, so no threshold is better "
            "than another there; choose a split that has key moments, or leave it out for --config.eval.threshold"
        )
    return best_threshold([clip["score"] for clip in clips], [clip["label"] for clip in clips])[0], f"split {split}"


@functools.cache  # by which the compiled programs are kept
def _compiled_forward(platform: str) -> Any:
    return xla.jit(_forward, platform, static_argnums=(0, 1, 2))


def _forward(
    graphdef: nnx.GraphDef, mesh: Mesh, features: bool, state: nnx.State, clip: jax.Array, sound: jax.Array
) -> tuple[jax.Array, ...]:
    """The scores, and the features if wanted, of as many clips on each device as it computes at once."""
    shared, dealt = PartitionSpec(), PartitionSpec(("data", "fsdp"))

    def on_one(state: nnx.State, clip: jax.Array, sound: jax.Array) -> tuple[jax.Array, ...]:
        model = nnx.merge(graphdef, state)
        model.set_attributes(platform=mesh_lib.platform(mesh))
        out = model(clip, sound)
        return (out.scores, out.features) if features else (out.scores,)

    return jax.shard_map(on_one, mesh=mesh, in_specs=(shared, dealt, dealt), out_specs=dealt, check_vma=False)(
        state, clip, sound
    )
