"""The scorer that runs a network on the devices of a mesh."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax import xla
from avmsnet_jax.config import MeshConfig
from avmsnet_jax.data.clips import Clip, resize
from avmsnet_jax.media.frame import Frame
from avmsnet_jax.models.avmsnet import AVMSNet
from avmsnet_jax.scoring.scorer import ClipScores, Measured
from avmsnet_jax.weights import checkpoint

# Clips per device in a group of fixed size, because the last bits of a score depend on how many clips are computed
# together. On CPU the size is 1, which costs a fifth of the speed: for several rows, the order in which XLA's threads
# add up products varies. With 8 devices simulated on 2 cores, it varies for some convolutions of a single clip, too,
# and a score can change by 1e-7.
_GROUP = {"cpu": 1}
_GROUP_ELSEWHERE = 16


def outputs(model: AVMSNet, clip: jax.Array, sound: jax.Array) -> dict[str, jax.Array]:
    """The results of a network for B clips.

    Returns:
      `logits` and `scores` (B,), `features` (B, C), `localization` (B, h, w): the norm over channels of the ALM
      tensor, and `attention_0`, `attention_1`, … (B, h, w) of the attention modules.
    """
    model.eval()
    out = model(clip, sound)
    maps = {f"attention_{number}": each.astype(jnp.float16) for number, each in enumerate(out.attention)}
    norm = jnp.linalg.norm(out.localization, axis=-1)
    localization = jnp.minimum(norm, jnp.finfo(jnp.float16).max).astype(jnp.float16)
    return {
        "logits": out.logits,
        "scores": out.scores,
        "features": out.features,
        "localization": localization,
        **maps,
    }


class Network:
    """A `Scorer`: a network, copied to every device of a mesh. The devices share each batch."""

    name: Literal["network"] = "network"
    learned_from_people = True

    def __init__(self, model: AVMSNet, mesh: Mesh, batch_size: int, *, fixed_groups: bool = False):
        """Copies the network to the devices.

        Args:
          model: the network.
          mesh: the devices.
          batch_size: clips per batch; rounded up to a multiple of what the devices compute at once.
          fixed_groups: compute the clips in groups of a fixed size, so that the last bits of a score do not depend on
            `batch_size`.
        """
        self.frames, self.frame_size = model.config.frames, model.config.frame_size
        self._mesh, self._platform = mesh, mesh_lib.platform(mesh)
        share = _GROUP.get(self._platform, _GROUP_ELSEWHERE) * mesh.size if fixed_groups else mesh.size
        self.batch_size = -(-batch_size // share) * share
        self._at_once = share if fixed_groups else self.batch_size
        self._graphdef, state = nnx.split(model)
        self._state = jax.device_put(state, mesh_lib.replicated(mesh))

    @classmethod
    def load(cls, directory: str, mesh: MeshConfig, batch_size: int, *, fixed_groups: bool = False) -> "Network":
        """A network from a checkpoint, as `avmsnet_jax.load` takes it.

        Raises:
          UserError: there is no such checkpoint, it holds NaN, or there are fewer devices than the mesh takes.
        """
        model = checkpoint.load(directory, finite=True)
        return cls(model, mesh_lib.make_mesh(mesh), batch_size, fixed_groups=fixed_groups)

    def picture(self, frame: Frame, size: int) -> np.ndarray:
        """Resized exactly as for training."""
        return resize(frame, size)

    def measure(self, batch: Sequence[Clip]) -> Measured:
        """The `outputs` for the clips."""
        groups = [batch[first : first + self._at_once] for first in range(0, len(batch), self._at_once)]
        # Dispatch all groups before waiting for the first.
        found = jax.device_get([self._start(group) for group in groups])
        return {name: np.concatenate([part[name] for part in found])[: len(batch)] for name in found[0]}

    def finish(self, measured: Measured) -> ClipScores:
        """Collects the results; a network scores each clip independently of the others."""
        count = sum(name.startswith("attention_") for name in measured)
        return ClipScores(
            scores=measured["scores"],
            features=measured["features"],
            attention=tuple(measured[f"attention_{number}"] for number in range(count)),
            localization=measured["localization"],
        )

    def _start(self, group: Sequence[Clip]) -> dict[str, jax.Array]:
        """Starts computing a group, padded with copies of its last clip."""
        filled = [*group, *[group[-1]] * (self._at_once - len(group))]
        arrays = np.stack([clip.clip for clip in filled]), np.stack([clip.sound for clip in filled])
        placed = mesh_lib.place_batch(self._mesh, arrays)
        found: dict[str, jax.Array] = _compiled(self._platform)(self._graphdef, self._mesh, self._state, *placed)
        return found


@functools.cache  # one jitted function for all networks, so that equal ones share compiled programs
def _compiled(platform: str) -> Any:
    return xla.jit(_on_devices, platform, static_argnums=(0, 1))


def _on_devices(
    graphdef: nnx.GraphDef, mesh: Mesh, state: nnx.State, clip: jax.Array, sound: jax.Array
) -> dict[str, jax.Array]:
    """`outputs`, each device on its share of the clips."""
    replicated, shared = PartitionSpec(), PartitionSpec(("data", "fsdp"))

    def on_one(state: nnx.State, clip: jax.Array, sound: jax.Array) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, state)
        model.set_attributes(platform=mesh_lib.platform(mesh))
        return outputs(model, clip, sound)

    specs = (replicated, shared, shared)
    return jax.shard_map(on_one, mesh=mesh, in_specs=specs, out_specs=shared, check_vma=False)(state, clip, sound)
