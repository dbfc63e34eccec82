"""One's own films: a folder of them, with a FILM.keyshots.csv (start_s,end_s) beside each.

    python prepare_data.py --dataset=movies --source=FILMS --output=RECORDS
    python train.py --config=configs/films.py --config.data.dir=RECORDS --workdir=runs/films
    python eval.py --config=configs/films.py --config.data.dir=RECORDS --checkpoint=runs/films --output=results/films

Start from published or converted weights with --config.init.checkpoint=DIR: from random weights a handful of films
teaches little. Of four films and more some are held out, and the epoch that did best on them is kept. Batch 8 fits a
laptop; raise it, and the learning rate with it, where memory allows.
"""

from avmsnet_jax.config import Config, DataConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(validation_fraction=0.15),  # of four films and more
        optimizer=OptimizerConfig(name="adamw", learning_rate=1e-4, weight_decay=1e-4),
        train=TrainConfig(epochs=10, batch_size=8, checkpoint_every_epochs=1),
    )
