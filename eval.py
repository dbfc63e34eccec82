"""Score a split of prepared records with a checkpoint: precision, recall and F beside chance, and every clip's score.

python eval.py --config=configs/films.py --config.data.dir=RECORDS --checkpoint=RUN --output=RESULTS
"""

from pathlib import Path

from absl import flags

from avmsnet_jax import command
from avmsnet_jax.config import Config

_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "a training run, one of its steps, or a converted checkpoint")
_OUTPUT = flags.DEFINE_string("output", "", "where metrics.json and scores/<video>.csv go; must not exist yet")
_SPLIT = flags.DEFINE_string("split", "test", "which split of the records to score")


def main(config: Config) -> None:
    command.require(_CHECKPOINT, _OUTPUT)
    from avmsnet_jax.evaluation import movie50  # seconds to import: not for --help or a missing flag

    metrics = movie50.evaluate(config, _CHECKPOINT.value, _SPLIT.value, Path(_OUTPUT.value))
    print(movie50.summary(metrics))
    print(f"written to {_OUTPUT.value}")


if __name__ == "__main__":
    command.run(main, takes_config=True)
