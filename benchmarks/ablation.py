"""What each part of the recipe is worth: as much work with one thing changed, for validation.

    python benchmarks/ablation.py DATA [--seconds 90 | --steps 500] [--sets isbi2012_em ...]
        [--changes "no patches" ...] [--seeds 0 1 2] [--jobs 2] [--results FILE]

Trains on two thirds of each set's train list and scores the last weights on the other
third; the test lists are not read. Within a seed all changes part the list alike. Every training
gets as many seconds of one core's work (processor time, so that other work on the machine changes
nothing): a few steps are timed, and tell how many there will be; or, for changes that leave a
step's cost as it is, a number of steps. Nothing is tuned, and no epoch is chosen. Cells that are in
the results (benchmarks/results/ablation.json, all of one machine) are skipped; then run
benchmarks/page.py.
"""

from __future__ import annotations

import json
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from accuracy_sets import SETS
from cells import TIMED, Never, arguments, measure, parted, steps_of, train_list
from numpy.typing import NDArray

QUICK, WIDE = (16, 32, 64, 128, 256), (32, 64, 128, 256, 512)
MOVED = "contorno.data.batches:_MOVED"
TEACHERS = "teachers"  # models of so many folds, whose own training is not counted
LINE = 0.3  # of the steps
LIGHTS = {"half the light": 0.5, "half as much again": 1.5}  # times every value


def level_then_line(recipe: Any, position: Any, now: int) -> float:
    """Factor on the learning rate: one, then a straight line to zero over the last steps."""
    left = 1 - now / (recipe.steps_per_epoch * position.epochs)
    return min(1.0, left / LINE)


CHANGES: dict[str, dict[str, Any]] = {  # name: values that win over the recipe's, or a module's
    "recipe": {},
    "AdamW": {"optimizer": "adamw"},
    "AdamW, learning rate 2e-3": {"optimizer": "adamw", "learning_rate": 2e-3},
    "learning rate 5e-4": {"learning_rate": 5e-4},
    "learning rate 2e-3": {"learning_rate": 2e-3},
    "no patches": {"patch": 1},
    "base width 32": {"widths": WIDE},
    "4 levels": {"widths": QUICK[:4]},
    "bilinear": {"up": "bilinear"},
    "normalised by the set": {"normalise": "set"},
    "crops of 128, batches of 16": {"crop": 128, "batch_size": 16},
    "batches of 2": {"batch_size": 2},
    "batches of 8": {"batch_size": 8},
    "cross-entropy alone": {"loss": "bce"},
    "Dice alone": {"loss": "dice"},
    "no augmentation": {"augment": False},
    "weight decay 0.01": {"weight_decay": 0.01},
    "constant learning rate": {"schedule": "constant"},
    "level, then a line to zero": {"contorno.schedule:_factor": level_then_line},
    "no crop moved to a class": {MOVED: 0.0},
    "crops of 64, batches of 64": {"crop": 64, "batch_size": 64},
    "crops of 64, batches of 64, none moved": {"crop": 64, "batch_size": 64, MOVED: 0.0},
    "taught by the models of 5 folds": {TEACHERS: 5},
}


def main() -> None:
    parser = arguments(__doc__, "ablation.json")
    parser.add_argument("--seconds", type=float, default=90.0, help="of one core, for training")
    parser.add_argument("--steps", type=int, help="of training, in place of seconds")
    parser.add_argument("--changes", nargs="+", default=list(CHANGES), choices=CHANGES)
    options = parser.parse_args()
    if options.cell:
        name, seed, change = options.cell.split("/")
        print(json.dumps(train(options.data / name, change, int(seed), options)))
        return
    seconds = None if options.steps else options.seconds
    work = f"{options.steps} steps" if options.steps else f"{seconds:g} s"
    words = ["--steps", str(options.steps)] if options.steps else ["--seconds", str(seconds)]
    cells = {}
    for seed, name, change in product(options.seeds, options.sets, options.changes):
        about = {"set": name, "core_seconds": seconds, "change": change, "seed": seed}
        cells[f"{name}, {work}, {change}, seed {seed}"] = (
            about,
            [*words, "--cell", f"{name}/{seed}/{change}"],
        )
    measure(cells, options)


def train(data: Path, change: str, seed: int, options: Any) -> dict[str, Any]:
    """Train on two thirds of the train list, score on the rest."""
    import importlib

    from distill import Student

    from contorno.data.groups import folds
    from contorno.fingerprint import fingerprint
    from contorno.hardware import choose
    from contorno.recipes import resolve
    from contorno.trainer import Trainer

    asked = dict(CHANGES[change])
    teachers = asked.pop(TEACHERS, 0)
    for place in [name for name in asked if ":" in name]:
        module, _, constant = place.partition(":")
        setattr(importlib.import_module(module), constant, asked.pop(place))
    classes = SETS[data.name]
    material, found = train_list(data)
    names = parted(found, found.pairs.names, 1 / 3, seed)
    parts = [found.pairs.subset(part) for part in names]
    wishes = {"time": 300.0, "seed": seed} | asked  # the network of short times
    if wishes.get("loss") == "bce" and len(classes) > 2:
        wishes["loss"] = "ce"
    hardware = choose(device="cpu", precision="auto")
    config = resolve("auto", material, fingerprint(parts[0]), hardware, wishes)

    with tempfile.TemporaryDirectory() as folder:

        def trainer(steps: int, taught: Any = parts[0], kind: type[Trainer] = Trainer) -> Trainer:
            one = config.replace("training", epochs=1, steps_per_epoch=steps, time=None)
            return kind(one, taught, parts[1], hardware, Path(folder))

        steps = options.steps
        if not steps:
            each = median(steps_of(trainer(TIMED))[4:])
            steps = max(TIMED, round(options.seconds / each))
        run = trainer(steps, kind=Student if teachers else Trainer)
        if isinstance(run, Student):
            for fold in folds(names[0], teachers, seed=seed, grouping=found.grouping):
                teacher = trainer(steps, found.pairs.subset(sorted({*names[0]} - {*fold})))
                steps_of(teacher)
                run.teachers.append(teacher.segmenter)
        began = time.process_time()
        times = steps_of(run)
        spent = time.process_time() - began
        scores = scored(run)
        lights = {}
        for light, gain in LIGHTS.items():
            run.validation = Relit(parts[1], gain)
            lights[light] = scored(run).dice
    return {
        "dice": scores.dice,
        "squared_error": scores.error,
        "lights": lights,
        "steps": len(times),
        "processor_seconds": round(spent, 1),
        "images": [len(part) for part in parts],
    }


class Relit:
    """A dataset whose pictures had more light, or less: (H, W, C), cut off where their type ends.

    Args:
        dataset: whose values are shares of a light, with 0 for none.
        gain: times every value.
    """

    def __init__(self, dataset: Any, gain: float) -> None:
        self.dataset, self.gain = dataset, gain

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        image, classes = self.dataset.read(index)
        most = np.iinfo(image.dtype).max
        return np.clip(np.rint(image * self.gain), 0, most).astype(image.dtype), classes


def scored(run: Any) -> Any:
    scores = run.validate(Never())
    assert scores is not None
    return scores


if __name__ == "__main__":
    main()
