"""A small A/V-MSNet on toy movies, as trained by `make demo`.

    python -m avmsnet_jax.toy --output=demo/films
    python prepare_data.py --dataset=movies --source=demo/films --output=demo/records --frame_size=48
    python train.py --config=configs/demo.py --config.data.dir=demo/records --workdir=demo/run
    python eval.py --config=configs/demo.py --config.data.dir=demo/records --checkpoint=demo/run --output=demo/results

Expect F of 0.95 and more on the test films; calling everything key gives 0.34. No network that only watches
(--config.model.audiovisual=false) can exceed 0.57 at any threshold, and none that only listens 0.59. On two CPU cores,
rendering and preparing take well under a minute, training about two.
"""

from avmsnet_jax.config import Config, EvalConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            depth=10,
            frame_size=48,
            trunk_width=8,
            soundnet_width=4,
            alm_width=32,
            alm_channels=16,
            adjust_width=32,
            head_width=64,
        ),
        # The published recipe is for pretrained weights; AdamW trains from random ones.
        optimizer=OptimizerConfig(name="adamw", learning_rate=2e-3, weight_decay=1e-4),
        train=TrainConfig(epochs=12, batch_size=32, checkpoint_every_epochs=4),
        eval=EvalConfig(batch_size=32),
    )
