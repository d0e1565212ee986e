"""Which epoch's weights to keep: rules compared on images that chose nothing.

    python benchmarks/kept.py DATA [--seconds 420] [--sets isbi2012_em ...] [--seeds 0 1]
        [--jobs 2] [--results FILE]

Parts each set's train list into a third that judges and two thirds that are parted again, as in a
run, into training and validation; the test lists are not read. A network is trained for so many
seconds of processor time, and validated every other epoch. Every rule then picks an epoch by the
validation images, what is tuned is tuned on them, and the third is scored. Cells that are in
the results (benchmarks/results/kept.json, all of one machine) are skipped; then run
benchmarks/page.py.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from cells import TIMED, Never, arguments, measure, parted, steps_of, train_list

EPOCHS = 120  # of one training, however many steps
MOST = 20  # images that validate an epoch, as in a run of minutes


class Kept(NamedTuple):
    """A model that was validated."""

    dice: float
    error: float  # mean squared, of probabilities
    epoch: int
    weights: dict[str, Any]


def best(models: Sequence[Kept]) -> Kept:
    return max(models, key=lambda model: (model.dice, -model.error))


RULES = {
    "best Dice": best,
    "best Dice of the second half": lambda models: best(models[len(models) // 2 :]),
    "best Dice of the last quarter": lambda models: best(models[len(models) * 3 // 4 :]),
    "least squared error": lambda models: min(models, key=lambda model: model.error),
    "last": lambda models: models[-1],
}


def main() -> None:
    parser = arguments(__doc__, "kept.json")
    parser.add_argument("--seconds", type=float, default=420.0, help="of processor time")
    options = parser.parse_args()
    seconds = options.seconds
    if options.cell:
        name, seed = options.cell.split("/")
        print(json.dumps(train(options.data / name, int(seed), seconds)))
        return
    cells = {}
    for seed, name in product(options.seeds, options.sets):
        cells[f"{name}, {seconds:g} s, seed {seed}"] = (
            {"set": name, "seed": seed},
            ["--seconds", str(seconds), "--cell", f"{name}/{seed}"],
        )
    measure(cells, options)


def train(data: Path, seed: int, seconds: float) -> dict[str, Any]:
    """Train one network; what every rule picks of it, and how that is judged."""
    from contorno.fingerprint import fingerprint
    from contorno.hardware import choose
    from contorno.recipes import resolve
    from contorno.trainer import Trainer
    from contorno.tune import tune

    material, found = train_list(data)
    rest, third = parted(found, found.pairs.names, 1 / 3, seed)
    parts = parted(found, rest, material.validation, seed)
    training, validation, judging = (found.pairs.subset(names) for names in (*parts, third))
    hardware = choose(device="cpu", precision="auto")
    wishes = {"time": 300.0, "seed": seed}  # the network of short times
    config = resolve("auto", material, fingerprint(training), hardware, wishes)

    with tempfile.TemporaryDirectory() as folder:

        def trainer(epochs: int, steps: int) -> Trainer:
            some = {"time": None, "validate_images": min(len(validation), MOST)}
            one = config.replace("training", epochs=epochs, steps_per_epoch=steps, **some)
            return Trainer(one, training, validation, hardware, Path(folder))

        each = median(steps_of(trainer(1, TIMED))[4:])
        run = trainer(EPOCHS, max(1, int(seconds / each) // EPOCHS))
        models = []
        for epoch in range(EPOCHS):
            steps_of(run)
            if epoch % 2:
                scores = run.validate(Never())
                assert scores is not None
                weights = copy.deepcopy(run.segmenter.state_dict())
                models.append(Kept(scores.dice, scores.error, epoch + 1, weights))
            run.position.epoch, run.position.step = epoch + 1, 0

        whole = config.replace("training", time=None)  # validates with every image
        judge = Trainer(whole, training, judging, hardware, Path(folder))
        judged: dict[int, float] = {}
        rules = {}
        for rule, choose_model in RULES.items():
            chosen = choose_model(models)
            if chosen.epoch not in judged:
                run.segmenter.load_state_dict(chosen.weights)
                tuned = tune(run.engine, run.card, validation, seed=seed)
                judge.card = run.card.model_copy(update={"tuned": tuned})
                judge.segmenter.load_state_dict(chosen.weights)
                scores = judge.validate(Never())
                assert scores is not None
                judged[chosen.epoch] = scores.dice
            rules[rule] = {
                "epoch": chosen.epoch,
                "validation": chosen.dice,
                "judged": judged[chosen.epoch],
            }
    images = [len(training), len(validation), len(judging)]
    steps = EPOCHS * run.sampler.steps
    return {"epochs": EPOCHS, "steps": steps, "images": images, "rules": rules}


if __name__ == "__main__":
    main()
