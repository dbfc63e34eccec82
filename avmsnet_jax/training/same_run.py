"""Whether the run in a working directory can continue with a configuration."""

from pathlib import Path

from avmsnet_jax import config as config_lib
from avmsnet_jax import json_file
from avmsnet_jax.config import Config
from avmsnet_jax.errors import UserError
from avmsnet_jax.training.checkpoints import begun

# The optimizer state and the data position depend on these, besides all fields of the network.
_FIXED = (
    "data.fold",
    "data.train_split",
    "data.validation_fraction",
    "optimizer.name",
    "train.batch_size",
    "train.seed",
)
_FREE_SECTIONS = ("hosts", "mesh", "init", "eval")  # changes in these are not reported


def check_same_run(config: Config, workdir: Path) -> list[str]:
    """The fields that have changed since the run in `workdir` began, as text; none if there is no run.

    Raises:
      UserError: a field changed that what is on disk depends on.
    """
    path = workdir / "config.json"
    if not (path.exists() and begun(workdir / "checkpoints")):
        return []
    remedy = "give another --workdir, or remove it to resume with the configuration given now"
    before = config_lib.from_dict(Config, json_file.read(path, remedy), str(path))
    changes = []
    for name in config_lib.fields():
        section, field = name.split(".")
        held, wanted = getattr(getattr(before, section), field), getattr(getattr(config, section), field)
        if held == wanted or section in _FREE_SECTIONS:
            continue
        ema_turned_on_or_off = name == "train.ema_decay" and bool(held) != bool(wanted)
        if section == "model" or name in _FIXED or ema_turned_on_or_off:
            raise UserError(
                f"{workdir} holds a run with {name}={held}, not {wanted}; "
                "give another --workdir, or the same configuration to resume"
            )
        changes.append(f"{name} from {held} to {wanted}")
    return changes
