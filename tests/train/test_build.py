"""What options make of data, optimiser, schedule and model."""

import numpy as np
import pytest

import minidl
from minidl import models, nn
from minidl.train.build import build
from minidl.train.config import TrainConfig
from minidl.train.log import read_metrics
from minidl.train.record import RunFolder
from minidl.train.weights import load_model


def made(**options):
    return build(TrainConfig(**{"limit": 40, "batch_size": 16, "epochs": 2, "threads": 1, **options}))


def rates(trainer, count):
    found = []
    for _ in range(count):
        found.append(trainer.lr)
        trainer.schedule.step()
    return found


# ---- learning rate and weight decay


def test_steps_at_milestones_counted_in_updates():
    given = made(schedule="step", milestones=[2, 4], lr=1.0)  # 3 updates an epoch
    assert rates(given, 6) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01], rel=1e-12)
    default = made(schedule="step", lr=1.0, epochs=4)
    assert rates(default, 12) == pytest.approx([1] * 6 + [0.1] * 3 + [0.01] * 3, rel=1e-12)


def test_milestones_count_the_warm_up_too():
    trainer = made(schedule="step", milestones=[4], lr=1.0, warmup=1.0)
    assert rates(trainer, 6) == pytest.approx([1 / 3, 5 / 9, 7 / 9, 1, 0.1, 0.1], rel=1e-12)


def test_a_triangle_has_straight_sides():
    trainer = made(schedule="triangle", rise=0.5, lr_start=0.2, lr_end=0.1, lr=1.0, epochs=6)  # 18 updates
    found = rates(trainer, 18)
    top = int(np.argmax(found))
    assert found[0] == pytest.approx(0.2) and found[top] == pytest.approx(1, abs=0.06) and 7 <= top <= 9
    assert trainer.lr == pytest.approx(0.1)  # after the last
    for side in (found[:top], found[top + 1 :]):
        assert np.diff(side, n=2) == pytest.approx(0, abs=1e-12)


def test_decoupled_decay_takes_the_same_share_at_any_rate():
    for lr, factor in ((0.5, 1.0), (0.125, 4.0)):
        trainer = made(schedule="constant", lr=lr, bias_lr=factor, weight_decay=1e-3, decoupled=True, decay_biases=True)
        weights, biases = trainer.optimizer.param_groups
        assert (weights["lr"], biases["lr"]) == (lr, lr * factor)
        assert [group["lr"] * group["weight_decay"] for group in (weights, biases)] == pytest.approx([1e-3, 1e-3])
    plain = made(lr=0.5, weight_decay=1e-3).optimizer.param_groups
    assert [group["weight_decay"] for group in plain] == [1e-3, 0.0]


# ---- images


def seen(trainer, epoch):
    trainer.train_loader.set_epoch(epoch)
    return np.concatenate([images for images, _ in trainer.train_loader])


def test_alternating_mirror_images():
    trainer = made(augment="flip", flip="alternating", shift=1, batch_size=40)
    trainer.train_loader.transform.transforms = trainer.train_loader.transform.transforms[1:]  # without the shift
    trainer.train_loader.shuffle = False
    first, second, third = (seen(trainer, epoch) for epoch in range(3))
    np.testing.assert_array_equal(first, second[..., ::-1])
    np.testing.assert_array_equal(first, third)
    plain = np.concatenate([images for images, _ in trainer.test_loader.__class__(
        trainer.train_loader.dataset, 40, transform=trainer.test_loader.transform)])  # fmt: skip
    mirrored = [not np.array_equal(a, b) for a, b in zip(first, plain, strict=True)]
    assert 8 < sum(mirrored) < 32  # 20 are expected of a fair coin; beyond these is 1 in 10,000


def test_alternating_changes_nothing_where_nothing_is_mirrored():
    trainer = made(augment="shift", flip="alternating")
    assert not trainer.train_loader.alternate


@pytest.mark.parametrize("options, arguments", [
    ({"augment": "standard"}, {"padding": 4, "mode": "zero"}),
    ({"augment": "standard", "shift": 2, "border": "reflect"}, {"padding": 2, "mode": "reflect"}),
])  # fmt: skip
def test_shift_and_border(options, arguments):
    crop = made(**options).train_loader.transform.transforms[1].config()
    assert {name: crop[name] for name in arguments} == arguments


# ---- a model that looks at the images first


@pytest.fixture
def prepared(monkeypatch):
    class Prepared(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.fc = nn.Linear(3, 2, bias=False), nn.Linear(2, 10)

        def prepare(self, images):
            self.calls = getattr(self, "calls", 0) + 1
            self.shape = tuple(images.shape)
            with minidl.no_grad():
                self.frozen.weight.copy_(images.mean((0, 2, 3)).reshape(1, 3) * minidl.ones(2, 1))
            self.frozen.weight.requires_grad = False

        def forward(self, x):
            return self.fc(self.frozen(x.mean((2, 3))))

    real = models.create

    def create(name, **options):
        return Prepared() if name == "smallconv" else real(name, **options)

    monkeypatch.setattr(models, "create", create)
    return Prepared


def test_prepare_sees_plain_training_images_before_the_first_update(prepared, tmp_path):
    options = {"lookahead": 0.5, "ema": 0.9, "epochs": 1, "weight_decay": 0.1, "limit": 40, "batch_size": 16, "threads": 1}
    folder = RunFolder.create(tmp_path / "run")
    trainer = build(TrainConfig(**options), folder)
    model = trainer.model
    assert model.calls == 1 and model.shape == (40, 3, 32, 32)
    images, _ = trainer.train_loader.dataset.batch(range(40))
    mean = trainer.test_loader.transform(images, None).mean((0, 2, 3))
    np.testing.assert_allclose(model.frozen.weight.numpy()[0], mean, rtol=1e-4, atol=1e-6)  # float32, another order of sums
    before = model.frozen.weight.numpy().copy()
    assert len(trainer.optimizer.param_groups[0]["params"]) == 1  # what is frozen is not decayed either
    trainer.fit()
    np.testing.assert_allclose(model.frozen.weight.numpy(), before, rtol=1e-6)  # averaging rounds
    folder.close()
    loaded, _ = load_model(tmp_path / "run" / "model.safetensors")
    assert not hasattr(loaded, "calls")
    np.testing.assert_allclose(loaded.frozen.weight.detach().numpy(), before, rtol=1e-6)


# ---- the tests at the end


def test_last_tests_are_recorded(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    outcome = build(TrainConfig(limit=40, epochs=1, threads=1, tta="shift:2", train_error=True, augment="strong"), folder).fit()
    folder.close()
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["kind"] == "final" and last["tta"] == "shift:2"
    assert (last["tta_accuracy"], last["train_accuracy"]) == (outcome.averaged_test.top1, outcome.train_test.top1)
    assert outcome.signal is None and outcome.train_test.images == 40


def test_the_training_images_are_tested_without_augmentation():
    trainer = made(train_error=True, augment="strong", epochs=1)
    outcome = trainer.fit()
    images, labels = trainer.train_loader.dataset.batch(range(40))
    trainer.model.eval()
    with minidl.no_grad():
        answers = trainer.model(minidl.from_numpy(trainer.test_loader.transform(images, None))).numpy().argmax(1)
    assert outcome.train_test.top1 == (answers == labels).mean()
    assert outcome.averaged_test is None
