r"""The visual-only network on Movie50: SoundNet and ALM are not evaluated.

    python convert_weights.py --source=resnet-50-kinetics.pth --output=weights/kinetics
    python prepare_data.py --dataset=movie50 --source=data --output=records/movie50
    python train.py --config=configs/movie50_visual_only.py --config.data.dir=records/movie50 \
        --config.init.checkpoint=weights/kinetics --workdir=runs/movie50_visual_only
    python eval.py --config=configs/movie50_visual_only.py --config.data.dir=records/movie50 \
        --checkpoint=runs/movie50_visual_only --output=results/movie50_visual_only

The learning rates of trunk and head are ten times those of the audio-visual recipe, which starts from the result.
Movie50 is not public, so there is no result to compare with.
"""

from avmsnet_jax.config import Config, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(train=TrainConfig(norm_clips=32), model=ModelConfig(audiovisual=False))
