"""Is a committee better than its best member? Five small nets from five seeds, on shapes10, alone and together.

Together means: the mean of their probabilities. Also with each picture's mirror image beside it. Krizhevsky et al. 2012 go
from 18.2 % (one net) to 16.4 % (five) top-5 error on ImageNet.
"""

from __future__ import annotations

from typing import Any

from benchmarks.experiments import common
from minidl.train.ensemble import Member
from minidl.train.predict import test_members

RECIPE: dict[str, Any] = {"data": "shapes10", "model": "smallconv", "limit": 4000, "epochs": 5}
MARGIN = 0.2  # percentage points by which an ensemble may be behind its best member


def main() -> None:
    parser = common.parser(__doc__.split("\n", 1)[0], "ensemble")
    parser.add_argument("--nets", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args()
    recipe = {**RECIPE, "threads": options.threads}
    members: list[Member] = []
    runs: list[dict[str, Any]] = []

    def test(who: str, nets: list[Member], views: int, seconds: float) -> None:
        found = test_members(nets, views=views)
        run = {
            "who": who, "views": views, "top1": common.percent(found.top1), "top5": common.percent(found.top5),
            "loss": round(found.loss, 4), "images": found.images, "train_seconds": round(seconds, 1),
        }  # fmt: skip
        runs.append(run)
        print(f"{who}, {views:>2} views: top-1 {found.top1:.2%}, top-5 {found.top5:.2%}, loss {found.loss:.4f}", flush=True)

    for seed in range(options.nets):
        trainer, _, seconds = common.train(**recipe, seed=seed)
        assert trainer.card is not None  # build gives every trainer one
        members.append(Member(trainer.model.eval(), trainer.card, f"seed {seed}"))
        test(f"seed {seed}", members[-1:], 1, seconds)
    test(f"all {len(members)}", members, 1, 0.0)
    test("seed 0", members[:1], 2, 0.0)
    test(f"all {len(members)}", members, 2, 0.0)
    alone = max(run["top1"] for run in runs[: len(members)])
    together = runs[len(members)]["top1"]
    print(f"together {together:.2f} %, the best alone {alone:.2f} %: " + ("ok" if together >= alone - MARGIN else "WORSE"))
    question = f"Are {len(members)} nets together at least as good as the best alone, less {MARGIN} points?"
    common.keep(options.out, question, recipe, runs, best_alone=alone, together=together)


if __name__ == "__main__":
    main()
