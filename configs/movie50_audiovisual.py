r"""The audio-visual network on Movie50: the published recipe with its defects fixed (docs/design.md).

    python convert_weights.py --source=visual_save_60.pth --source=soundnet8.pth --output=weights/start
    python prepare_data.py --dataset=movie50 --source=data --output=records/movie50
    python train.py --config=configs/movie50_audiovisual.py --config.data.dir=records/movie50 \
        --config.init.checkpoint=weights/start --workdir=runs/movie50_audiovisual
    python eval.py --config=configs/movie50_audiovisual.py --config.data.dir=records/movie50 \
        --checkpoint=runs/movie50_audiovisual --output=results/movie50_audiovisual

SGD for 60 epochs at batch 128, with batch norm over groups of 32 clips, as in the published run on four GPUs. Movie50
is not public, so there is no result to compare with.
"""

from avmsnet_jax.config import Config, TrainConfig


def get_config() -> Config:
    return Config(train=TrainConfig(norm_clips=32))  # the other defaults are the published recipe
