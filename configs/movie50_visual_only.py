r"""A/V-MSNet on Movie50, watching only: SoundNet and ALM are not evaluated.

    python convert_weights.py --source=resnet-50-kinetics.pth --output=weights/kinetics
    python prepare_data.py --dataset=movie50 --source=data --output=records/movie50
    python train.py --config=configs/movie50_visual_only.py --config.data.dir=records/movie50 \
        --config.init.checkpoint=weights/kinetics --workdir=runs/movie50_visual_only
    python eval.py --config=configs/movie50_visual_only.py --config.data.dir=records/movie50 \
        --checkpoint=runs/movie50_visual_only --output=results/movie50_visual_only

The trunk and the head learn ten times faster than in the audio-visual recipe. Its result is what the audio-visual
network starts from. Movie50 is not public, so no result of ours stands here.
"""

from avmsnet_jax.config import Config, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(train=TrainConfig(norm_clips=32), model=ModelConfig(audiovisual=False))
