import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avmsnet_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig
from avmsnet_jax.training.optimizer import groups, label, labels, make_optimizer, relative_rates, schedule
from avmsnet_jax.weights import names
from tests.conftest import SMALL

# Every prefix of the network's parameters, and the published group of what lies under it.
GROUPS = {
    "trunk": "global",
    "adjust": "global",
    "adjust_bn": "global",
    "fusion": "global",  # released code has the fuse conv in two groups
    "fusion_bn": "global",
    "fc1": "global",
    "fc1_bn": "global",
    "fc2": "global",
    "fc2_bn": "global",
    "fc3": "global",
    "dams/*/conv/kernel": "attention",
    "dams/*/conv/bias": "attention_bias",
    "dams/*/score/kernel": "attention_score",
    "dams/*/score/bias": "attention_score_bias",
    "soundnet": "sound",
    "alm": "fusion",
}
# Learning rate over the base rate for the audio-visual and the visual-only network (None = frozen); weight decay.
PUBLISHED = {
    "global": (1 / 100, 1 / 10, True),
    "attention": (1 / 100, 1 / 100, True),
    "attention_bias": (2 / 100, 2 / 100, False),
    "attention_score": (0.1 / 100, 0.1 / 100, True),
    "attention_score_bias": (0.2 / 100, 0.2 / 100, False),
    "sound": (1 / 10, None, True),
    "fusion": (1.0, None, True),
}
LEAVES = {  # a parameter of each group
    "global": "trunk/conv/kernel",
    "attention": "dams/0/conv/kernel",
    "attention_bias": "dams/1/conv/bias",
    "attention_score": "dams/2/score/kernel",
    "attention_score_bias": "dams/2/score/bias",
    "sound": "soundnet/bns/3/scale",
    "fusion": "alm/bias",
}


@pytest.fixture(scope="module")
def shapes():
    """The parameters of a small network with a fourth attention module, by path, as shapes."""
    model = names.abstract_model(ModelConfig(**SMALL, dam4=True))
    return nnx.state(model, nnx.Param)


def paths(params):
    return {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(params)}


def group_of(path):
    parts = path.split("/")
    if parts[0] == "dams":
        parts[1] = "*"
    return GROUPS.get("/".join(parts)) or GROUPS[parts[0]]


@pytest.mark.parametrize("audiovisual", [True, False])
def test_every_parameter_has_its_published_group(shapes, audiovisual):
    given = {path: leaf.get_value() for path, leaf in paths(labels(shapes, audiovisual)).items()}
    assert given.keys() == paths(shapes).keys()
    frozen = set() if audiovisual else {"sound", "fusion"}
    expected = {path: "frozen" if group_of(path) in frozen else group_of(path) for path in given}
    assert given == expected
    assert {group_of(path) for path in given} == set(PUBLISHED)
    assert sum(group == "attention" for group in given.values()) == 4
    assert all(label(path, audiovisual) == group for path, group in given.items())


@pytest.mark.parametrize("audiovisual", [True, False])
def test_the_groups_are_those_published(audiovisual):
    expected = {name: (row[not audiovisual], row[2]) for name, row in PUBLISHED.items() if row[not audiovisual]}
    found = {name: (group.rate, group.decays) for name, group in groups(audiovisual).items()}
    assert found.keys() == expected.keys()
    for name, (rate, decays) in expected.items():
        assert found[name] == (pytest.approx(rate), decays), name


def nested(leaves):
    tree = {}
    for path, value in leaves.items():
        *parents, last = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree


@pytest.mark.parametrize("audiovisual", [True, False])
def test_ten_steps_equal_pytorchs(audiovisual):
    """Published groups and settings in `torch.optim.SGD`, over both milestones; frozen ones are given no group."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = {path: rng.normal(size=(4, 3)) for path in LEAVES.values()}
    grads = [{path: rng.normal(size=(4, 3)) for path in start} for _ in range(10)]
    config = Config(
        model=ModelConfig(audiovisual=audiovisual),
        optimizer=OptimizerConfig(learning_rate=0.5, weight_decay=0.05),  # large, to be seen
        train=TrainConfig(epochs=5),
    )

    theirs = {path: torch.nn.Parameter(torch.tensor(value)) for path, value in start.items()}
    settings = {"momentum": 0.9, "dampening": 0.9, "nesterov": False}
    trained = {name: row[not audiovisual] for name, row in PUBLISHED.items() if row[not audiovisual]}
    optimizer = torch.optim.SGD(
        [
            {"params": [theirs[LEAVES[name]]], "lr": 0.5 * rate, "weight_decay": 0.05 * PUBLISHED[name][2]}
            for name, rate in trained.items()
        ],
        **settings,
    )
    milestones = [int(0.5 * 5), int(0.75 * 5)]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)

    with jax.enable_x64(True):
        ours = jax.tree.map(jnp.asarray, nested(start))
        transform = make_optimizer(config, steps_per_epoch=2)
        state, update = transform.init(ours), jax.jit(transform.update)
        for number, gradient in enumerate(grads, start=1):
            for path, value in gradient.items():
                theirs[path].grad = torch.tensor(value)
            optimizer.step()
            if number % 2 == 0:
                scheduler.step()
            updates, state = update(jax.tree.map(jnp.asarray, nested(gradient)), state, ours)
            ours = optax.apply_updates(ours, updates)
            for path, value in theirs.items():
                place = ours
                for part in path.split("/"):
                    place = place[part]
                np.testing.assert_allclose(place, value.detach().numpy(), atol=1e-6, err_msg=f"{path}, step {number}")
    moved = {path for path, value in theirs.items() if not np.array_equal(value.detach().numpy(), start[path])}
    assert moved == {LEAVES[name] for name in trained}


MIXED = [  # kernels, biases and BN parameters of every part
    *("trunk/conv/kernel", "trunk/bn/scale", "trunk/bn/bias", "dams/0/conv/kernel", "dams/0/conv/bias"),
    *("dams/0/score/kernel", "dams/0/score/bias", "soundnet/convs/0/kernel", "soundnet/convs/0/bias"),
    *("soundnet/bns/0/scale", "soundnet/bns/0/bias", "alm/kernel", "alm/bias", "alm/visual/kernel", "alm/sound/bias"),
    *("adjust/kernel", "fusion/bias", "fc1/kernel", "fc1/bias", "fc1_bn/scale", "fc3/kernel"),
]


def random_leaves(seed):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=(2, 3)).astype(np.float32) for path in MIXED}


def run(config, start, steps):
    """`start` after some steps with random gradients."""
    optimizer = make_optimizer(config, steps_per_epoch=2)

    @jax.jit
    def whole_run(params, gradients):
        state = optimizer.init(params)
        for grads in gradients:
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    moved = whole_run(nested(start), [nested(random_leaves(number)) for number in range(steps)])
    return {"/".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(moved)}


def test_the_mixed_leaves_exist(shapes):
    assert set(MIXED) <= paths(shapes).keys()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_visual_only_run_leaves_soundnet_and_alm_unchanged(name):
    """Whatever the gradients are, and with weight decay on."""
    start = random_leaves(99)
    optimizer = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.1)
    moved = run(Config(model=ModelConfig(audiovisual=False), optimizer=optimizer), start, steps=3)
    for path, before in start.items():
        assert np.array_equal(before, moved[path]) == path.startswith(("soundnet/", "alm/")), path
    moved = run(Config(optimizer=optimizer), start, steps=1)
    assert not [path for path, before in start.items() if np.array_equal(before, moved[path])]


def test_adamw_decays_kernels_only():
    """Weight decay changes a step by learning rate x decay x weight."""
    start = random_leaves(99)
    without, decayed = (
        run(Config(optimizer=OptimizerConfig(name="adamw", learning_rate=0.01, weight_decay=decay)), start, steps=1)
        for decay in (0.0, 0.5)
    )
    for path, before in start.items():
        expected = 0.01 * 0.5 * before * path.endswith("kernel")
        np.testing.assert_allclose(without[path] - decayed[path], expected, atol=1e-6, err_msg=path)
        # Adam's first step is the learning rate in the gradient's direction, in every group.
        np.testing.assert_allclose(np.abs(before - without[path]), 0.01, rtol=2e-3, err_msg=path)


@pytest.mark.parametrize(
    ("epochs", "tenths"),
    [  # by which power of ten the rate has fallen in each epoch
        (1, [0]),
        (2, [0, 2]),  # both milestones fall on the end of epoch 1, as in the released code
        (3, [0, 1, 2]),
        (4, [0, 0, 1, 2]),
        (5, [0, 0, 1, 2, 2]),
        (60, [0] * 30 + [1] * 15 + [2] * 15),
    ],
)
def test_the_learning_rate_decays_at_50_and_75_percent_of_the_epochs(epochs, tenths):
    config = Config(optimizer=OptimizerConfig(learning_rate=0.2), train=TrainConfig(epochs=epochs))
    rate = schedule(config, steps_per_epoch=3)
    found = np.array([rate(step) for step in range(3 * epochs)])
    np.testing.assert_allclose(found, np.repeat([0.2 * 10.0**-power for power in tenths], 3), rtol=1e-6)


def test_the_decay_factor_is_configurable():
    config = Config(optimizer=OptimizerConfig(decay_factor=0.5, learning_rate=1.0), train=TrainConfig(epochs=4))
    rate = schedule(config, steps_per_epoch=1)
    assert [float(rate(step)) for step in range(4)] == [1.0, 1.0, 0.5, 0.25]


def test_cosine_and_warm_up():
    optimizer = OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_epochs=1.5)
    rate = schedule(Config(optimizer=optimizer, train=TrainConfig(epochs=4)), steps_per_epoch=2)
    fall = [0.5 * (1 + np.cos(np.pi * step / 5)) for step in range(6)]
    np.testing.assert_allclose([rate(step) for step in range(9)], [0.25, 0.5, 0.75, *fall], atol=1e-6)
    optimizer = OptimizerConfig(learning_rate=1.0, warmup_epochs=0.5)  # the milestones stay where they were
    rate = schedule(Config(optimizer=optimizer, train=TrainConfig(epochs=4)), steps_per_epoch=2)
    np.testing.assert_allclose([rate(step) for step in range(8)], [0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_gradients_are_clipped_by_global_norm(name):
    params, grads = nested(random_leaves(0)), nested(random_leaves(1))
    norm = float(np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(grads))))
    settings = {"name": name, "learning_rate": 0.1, "weight_decay": 0.0}

    def update(grads, clip_norm):
        optimizer = make_optimizer(Config(optimizer=OptimizerConfig(**settings, clip_norm=clip_norm)), 2)
        return jax.tree.leaves(optimizer.update(grads, optimizer.init(params), params)[0])

    shorter = jax.tree.map(lambda leaf: leaf / 4, grads)
    for clipped, by_hand in zip(update(grads, norm / 4), update(shorter, 0.0), strict=True):
        np.testing.assert_allclose(clipped, by_hand, rtol=1e-4, atol=1e-9)
    for within, untouched in zip(update(grads, 2 * norm), update(grads, 0.0), strict=True):
        np.testing.assert_array_equal(within, untouched)


def test_learning_rates_by_group():
    assert relative_rates(Config()) == {name: row[0] for name, row in PUBLISHED.items()}
    assert relative_rates(Config(optimizer=OptimizerConfig(name="adamw", learning_rate=0.3))) == {"all": 1.0}
