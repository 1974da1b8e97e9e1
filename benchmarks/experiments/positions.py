"""What positions are worth to a small Vision Transformer: learned ones, sines and cosines, none.

Attention does not know where a patch was: without positions the net sees a bag of patches. Dosovitskiy et al. 2020 (table 8)
find for ViT-B/16 that any positions are better than none, and that it hardly matters which. Here the pictures are shapes10 as
sketches without clutter, which so small a net learns in a minute.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import minidl
from benchmarks.experiments import common
from minidl import data, models, optim
from minidl.data import transforms
from minidl.models.vit import POSITIONS
from minidl.train import environment
from minidl.train.build import cross_entropy
from minidl.train.trainer import Trainer

IMAGES = {"train": 4000, "test": 2000}
RECIPE: dict[str, Any] = {
    "data": "shapes10, domain_shift=sketch, clutter=0", "images": IMAGES, "epochs": 5, "batch_size": 32, "augment": "none",
    "optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.01, "schedule": "onecycle",
    "model": "vit_tiny_cifar", "model_options": {"num_layers": 2, "num_heads": 2, "hidden_dim": 48, "mlp_dim": 96},
}  # fmt: skip


def run(positions: str, seed: int) -> dict[str, Any]:
    """Train and test one net."""
    minidl.manual_seed(seed)
    model = models.create(RECIPE["model"], positions=positions, **RECIPE["model_options"])
    info = data.dataset_info("shapes10")
    prepare = transforms.Compose([transforms.ToFloat(), transforms.Normalize(info.mean, info.std)])
    loaders = {
        split: data.DataLoader(
            data.load("shapes10", split=split, size=size, domain_shift="sketch", clutter=0),
            RECIPE["batch_size"], shuffle=split == "train", transform=prepare, seed=seed,
        )
        for split, size in IMAGES.items()
    }  # fmt: skip
    optimizer = optim.AdamW(model.parameters(), lr=RECIPE["lr"], weight_decay=RECIPE["weight_decay"])
    steps = RECIPE["epochs"] * len(loaders["train"])
    trainer = Trainer(
        model, optimizer, loaders["train"], loaders["test"], loss=cross_entropy(0.0), epochs=RECIPE["epochs"],
        schedule=optim.schedule.OneCycleLR(optimizer, max_lr=RECIPE["lr"], total_steps=steps + 1, cycle_momentum=False),
        val_every=RECIPE["epochs"],
    )  # fmt: skip
    start = time.perf_counter()
    test = trainer.fit().test
    if test is None:
        raise SystemExit("stopped")
    return {
        "positions": positions, "seed": seed, "parameters": sum(p.numel() for p in model.parameters()),
        "test_accuracy": common.percent(test.top1), "test_loss": round(test.loss, 4),
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def main() -> None:
    parser = common.parser(__doc__.split("\n", 1)[0], "positions")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each kind; default: 2")
    options = parser.parse_args()
    environment.set_threads(options.threads)
    runs = []
    for seed in range(options.seeds):
        for positions in POSITIONS:
            runs.append(run(positions, seed))
            print(", ".join(f"{key} {value}" for key, value in runs[-1].items()), flush=True)
    means = {
        kind: round(statistics.mean(run["test_accuracy"] for run in runs if run["positions"] == kind), 2) for kind in POSITIONS
    }
    question = "What are positions worth to a small Vision Transformer?"
    common.keep(options.out, question, {**RECIPE, "threads": options.threads}, runs, mean_test_accuracy=means)


if __name__ == "__main__":
    main()
