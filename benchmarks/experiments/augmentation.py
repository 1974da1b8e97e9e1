"""What are augmentation, views and an ensemble worth? Five small nets on CIFAR-10, and one without augmentation.

Each net is tested on the pictures as they are, on these and their mirror images, and on ten crops; then all five together.
Krizhevsky, Sutskever and Hinton 2012: ten crops take ImageNet's top-1 error from 39.0 to 37.5 % (section 4.1), five nets the
top-5 error from 18.2 to 16.4 % (table 2), and without augmentation their net overfits. The net is speednet's narrow sister of
297,952 parameters, some four minutes of one core, since six are trained.
"""

from __future__ import annotations

from typing import Any

from benchmarks.bench import ROOT
from benchmarks.experiments import common
from minidl.train.ensemble import Member
from minidl.train.predict import test_members

RECIPE: dict[str, Any] = {
    "data": "cifar10", "model": "speednet", "model_options": {"widths": [32, 64, 128]}, "optimizer": "sgd", "lr": 0.6,
    "batch_size": 256, "weight_decay": 5e-4, "schedule": "onecycle", "epochs": 10, "train_error": True,
}  # fmt: skip
AUGMENT = "standard"
VIEWS = ("none", "flip", "ten-crop")
MARGIN = 0.2  # percentage points by which an ensemble may be behind its best member


def main() -> None:
    parser = common.parser(__doc__.split("\n", 1)[0], "augmentation")
    parser.set_defaults(out=ROOT / "benchmarks" / "results" / "cifar10" / "experiments" / "augmentation.json")
    parser.add_argument("--nets", type=int, default=5, help="with augmentation; default: %(default)s")
    options = parser.parse_args()
    recipe = {**RECIPE, "threads": options.threads}
    runs: list[dict[str, Any]] = []

    def test(who: str, nets: list[Member], **facts: Any) -> dict[str, Any]:
        run = {"who": who, "top1": {}, "top5": {}, **facts}
        for views in VIEWS:
            found = test_members(nets, views=views)
            run["top1"][views], run["top5"][views] = common.percent(found.top1), common.percent(found.top5)
        runs.append(run)
        print(f"{who}: " + ", ".join(f"{views} {share:.2f} %" for views, share in run["top1"].items()), flush=True)
        return run

    def trained(who: str, **more: Any) -> Member:
        trainer, _, seconds = common.train(**{**recipe, **more})
        assert trainer.card is not None and trainer.train_test is not None  # build and train_error give them
        member = Member(trainer.model.eval(), trainer.card, who)
        error = common.percent(1 - trainer.train_test.top1)
        test(who, [member], augment=more["augment"], train_error=error, train_seconds=round(seconds, 1))
        return member

    trained("seed 0, not augmented", seed=0, augment="none")
    members = [trained(f"seed {seed}", seed=seed, augment=AUGMENT) for seed in range(options.nets)]
    together = test(f"all {len(members)}", members)["top1"]["none"]
    alone = max(run["top1"]["none"] for run in runs[1:-1])
    print(f"together {together:.2f} %, the best alone {alone:.2f} %: " + ("ok" if together >= alone - MARGIN else "WORSE"))
    question = "What are augmentation, averaging over views and an ensemble worth?"
    common.keep(options.out, question, {**recipe, "augment": AUGMENT}, runs, best_alone=alone, together=together)


if __name__ == "__main__":
    main()
