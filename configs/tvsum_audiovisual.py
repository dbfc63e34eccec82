r"""A/V-MSNet on TVSum in the published layout (frames, wav, CSV of labels, fold lists named TVSum_list_*).

    python prepare_data.py --dataset=tvsum --source=data --output=records/tvsum
    python train.py --config=configs/tvsum_audiovisual.py --config.data.dir=records/tvsum \
        --config.init.checkpoint=weights/start --workdir=runs/tvsum_audiovisual
    python eval.py --config=configs/tvsum_audiovisual.py --config.data.dir=records/tvsum \
        --checkpoint=runs/tvsum_audiovisual --output=results/tvsum_audiovisual

A smaller batch than Movie50's: a training fold is 40 short videos. The videos are not public, so no result stands here.
"""

from avmsnet_jax.config import Config, TrainConfig


def get_config() -> Config:
    return Config(train=TrainConfig(batch_size=32))
