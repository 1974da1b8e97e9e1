"""The lecture's inference, from a file of PyTorch and a picture to the five most probable classes, against PyTorch itself."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from minidl.cli import cli
from minidl.models.weights import MEAN, STD
from minidl.train.ensemble import load_members
from minidl.train.predict import predict_members

pytestmark = pytest.mark.parity


def lecture_alexnet(torch):
    """The lecture's class in PyTorch, with random weights that make it choose."""
    nn = torch.nn
    torch.manual_seed(0)
    convs, layers = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1)], []
    for k, (given, made, kernel, stride, padding) in enumerate(convs):
        layers += [nn.Conv2d(given, made, kernel, stride, padding), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(3, 2)] * (k in (0, 1, 4))
    net = nn.Module()
    net.features = nn.Sequential(*layers)
    net.avgpool = nn.AdaptiveAvgPool2d((6, 6))
    net.classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True),
        nn.Linear(4096, 1000),
    )  # fmt: skip
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    return net.eval()


def test_a_file_of_torch_and_a_picture_give_torchs_five_classes(torch, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    net = lecture_alexnet(torch)
    torch.save(net.state_dict(), tmp_path / "alexnet.pth")
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC).save(tmp_path / "picture.png")
    (tmp_path / "classes.txt").write_text("\n".join(f"thing-{k}" for k in range(1000)))

    # Resize(256), CenterCrop(224), ToTensor(), Normalize(...) as torchvision does them to a Pillow image
    scaled = Image.open(tmp_path / "picture.png").resize((256 * 400 // 300, 256), Image.Resampling.BILINEAR)
    left, top = round((scaled.width - 224) / 2), round((scaled.height - 224) / 2)
    pixels = np.asarray(scaled.crop((left, top, left + 224, top + 224)), np.float32) / 255
    x = torch.from_numpy(((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)[None].copy())
    with torch.no_grad():
        scores = net.classifier(net.avgpool(net.features(x)).flatten(1))[0]
    wanted = torch.topk(torch.nn.functional.softmax(scores, dim=0), 5)
    assert wanted.values[0] < 0.9 and (wanted.values[:-1] - wanted.values[1:]).min() > 1e-3, "a choice that rounding cannot turn"

    options = {"weights": [tmp_path / "alexnet.pth"], "preprocess": "imagenet", "classes": tmp_path / "classes.txt"}
    ((_, found),) = predict_members(load_members(["alexnet"], **options), [tmp_path / "picture.png"], top=5)
    assert [name for name, _ in found] == [f"thing-{k}" for k in wanted.indices.tolist()]
    # Pixels may differ by one of 255 levels where Pillow's 22-bit weights round the other way.
    np.testing.assert_allclose([p for _, p in found], wanted.values.numpy(), rtol=0, atol=1e-4)

    command = ["predict", "alexnet", str(tmp_path / "picture.png"), "--weights", str(tmp_path / "alexnet.pth"), "--top", "5"]
    done = CliRunner().invoke(cli, [*command, "--preprocess", "imagenet", "--classes", str(tmp_path / "classes.txt")])
    assert done.exit_code == 0, done.output
    told = [word for line in done.output.splitlines()[1:] for word in line.split() if word.startswith("thing-")]
    assert told == [name for name, _ in found]
