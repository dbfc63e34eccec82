"""Your own films: a folder of films, each with a FILM.keyshots.csv (start_s,end_s).

    python prepare_data.py --dataset=movies --source=FILMS --output=RECORDS
    python train.py --config=configs/films.py --config.data.dir=RECORDS --workdir=runs/films
    python eval.py --config=configs/films.py --config.data.dir=RECORDS --checkpoint=runs/films --output=results/films

Start from converted published weights with --config.init.checkpoint=DIR, because a few films are not enough to train
from random weights. With four or more films, some are held out, and the best epoch on these is kept. A batch of 8 fits
a laptop; with more memory, increase it together with the learning rate.
"""

from avmsnet_jax.config import Config, DataConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(validation_fraction=0.15),  # with four or more films
        optimizer=OptimizerConfig(name="adamw", learning_rate=1e-4, weight_decay=1e-4),
        train=TrainConfig(epochs=10, batch_size=8, checkpoint_every_epochs=1),
    )
