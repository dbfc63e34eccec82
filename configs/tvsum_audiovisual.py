r"""A/V-MSNet on TVSum in the published layout (frames, wav, CSV of labels, fold lists named TVSum_list_*).

    python prepare_data.py --dataset=tvsum --source=data --output=records/tvsum
    python train.py --config=configs/tvsum_audiovisual.py --config.data.dir=records/tvsum \
        --config.init.checkpoint=weights/start --workdir=runs/tvsum_audiovisual
    python eval.py --config=configs/tvsum_audiovisual.py --config.data.dir=records/tvsum \
        --checkpoint=runs/tvsum_audiovisual --output=results/tvsum_audiovisual

The batch is smaller than for Movie50, because a training fold has 40 short videos. The videos are not public, so there
is no result to compare with.
"""

from avmsnet_jax.config import Config, TrainConfig


def get_config() -> Config:
    return Config(train=TrainConfig(batch_size=32))
