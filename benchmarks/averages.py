"""What the moving average and the annealing are worth: one training scored with both its weights.

    python benchmarks/averages.py DATA [--steps 400] [--sets isbi2012_em ...] [--seeds 0 1 2]
        [--schedules cosine constant] [--jobs 2] [--results FILE]

The average changes nothing in training, so that the same training can be scored with it and with
its newest weights, at each quarter of the way: the steps, the random numbers and the luck are the
same, which two trainings (ablation.py) do not have. Data, parts and rules are those of ablation.py.
Cells that are in the results (benchmarks/results/averages.json, all of one machine) are skipped;
then run benchmarks/page.py.
"""

from __future__ import annotations

import copy
import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from cells import Never, arguments, measure, parted, train_list

SCHEDULES = ("cosine", "constant")
QUARTERS = 4
DECAY = 0.99


def main() -> None:
    parser = arguments(__doc__, "averages.json")
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--schedules", nargs="+", default=list(SCHEDULES), choices=SCHEDULES)
    options = parser.parse_args()
    steps = options.steps
    if options.cell:
        name, seed, schedule = options.cell.split("/")
        scores = train(options.data / name, int(seed), schedule, steps)
        print(json.dumps({"scores": scores}))
        return
    cells = {}
    for seed, name, schedule in product(options.seeds, options.sets, options.schedules):
        about = {"set": name, "steps": steps, "schedule": schedule, "seed": seed}
        cells[f"{name}, {steps} steps, {schedule}, seed {seed}"] = (
            about,
            ["--steps", str(steps), "--cell", f"{name}/{seed}/{schedule}"],
        )
    measure(cells, options)


def train(data: Path, seed: int, schedule: str, steps: int) -> list[dict[str, float]]:
    """Train on two thirds of the train list, score on the rest after each quarter."""
    from contorno.engines.pytorch import PyTorchEngine
    from contorno.fingerprint import fingerprint
    from contorno.hardware import choose
    from contorno.recipes import resolve
    from contorno.trainer import Trainer

    material, found = train_list(data)
    parts = [found.pairs.subset(part) for part in parted(found, found.pairs.names, 1 / 3, seed)]
    wishes = {"time": 300.0, "seed": seed, "schedule": schedule}  # the network of short times
    hardware = choose(device="cpu", precision="auto")
    config = resolve("auto", material, fingerprint(parts[0]), hardware, wishes)
    config = config.replace("training", epochs=1, steps_per_epoch=steps, time=None)
    scored = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, *parts, hardware, Path(folder))
        average = copy.deepcopy(trainer.segmenter)
        weights = {"average": average, "newest": trainer.segmenter}
        for batch in trainer.sampler.batches(0, start=0, workers=1):
            trainer.step(batch)
            update(average, trainer.segmenter, done=trainer.position.step)
            trainer.position.step += 1
            if trainer.position.step % (steps // QUARTERS):
                continue
            found_by = {}
            for kind, segmenter in weights.items():
                trainer.engine = PyTorchEngine(segmenter, hardware)
                found_by[kind] = trainer.validate(Never()).dice
            scored.append({"step": trainer.position.step} | found_by)
    return scored


def update(average: Any, newest: Any, *, done: int) -> None:
    """Exponential moving average of weights and batch statistics, quicker at the start."""
    weight = 1 - min(DECAY, (1 + done) / (10 + done))
    pairs = zip(average.state_dict().values(), newest.state_dict().values(), strict=True)
    for mean, value in pairs:
        if mean.is_floating_point():
            mean.lerp_(value, weight)


if __name__ == "__main__":
    main()
