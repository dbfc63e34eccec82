"""Train A/V-MSNet on prepared records. The same command again resumes where the run stopped.

{program} --config=films --config.data.dir=RECORDS --workdir=RUN
"""

from absl import flags

from avmsnet_jax import command_line, storage
from avmsnet_jax.config import Config
from avmsnet_jax.data.manifest import read_manifest

_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/train", "where config.json, metrics.jsonl and checkpoints/ go: a folder, gs://… or s3://…"
)
_PARAMETERS = flags.DEFINE_bool(
    "parameters", False, "print each parameter with its group, learning rate and decay, and do nothing else"
)
_OPERATIONS = flags.DEFINE_bool(
    "operations", False, "print each convolution and matrix product with its multiply-adds, and do nothing else"
)


def main(config: Config) -> None:
    """Trains, or prints a table of the network."""
    if _PARAMETERS.value or _OPERATIONS.value:
        from avmsnet_jax.training import tables

        if _PARAMETERS.value:
            print(tables.each_parameter(tables.parameters(config, tables.shapes_of(config))))
        if _OPERATIONS.value:
            print(tables.each_operation(config.model))
        return
    storage.is_remote(_WORKDIR.value)  # raises UserError for a store that is not supported
    if not storage.is_remote(config.data.dir):
        read_manifest(config.data.dir)  # reports missing records before the slow import of JAX
    from avmsnet_jax.training.loop import train

    train(config, _WORKDIR.value)


def run() -> None:
    """Runs the command line."""
    command_line.run(main, takes_config=True)
