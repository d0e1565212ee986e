"""nnU-Net v2 for accuracy_peers.py: its own plan, preprocessing, trainer and predictor.

What is not its default: the number of iterations, which a clock gives, with the poly schedule
running to its end with that clock; no validation passes between epochs, which choose nothing here;
and no checkpoints, as the last weights predict, which is its default. Fold "all": no training image
is put aside.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_sets import read_classes
from PIL import Image

NAME = "Dataset001_Set"


def train(job: Any, clock: Any, *, memory: float | None) -> Any:
    """Plan and preprocess (once for a set), then train; `memory`: GB that the planner may use."""
    shared = Path(job.shared) / "nnunet"
    os.environ["nnUNet_def_n_proc"] = str(job.threads)  # noqa: SIM112
    for part in ("raw", "preprocessed", "results"):
        folder = Path(job.work) if part == "results" else shared
        os.environ[f"nnUNet_{part}"] = str(folder / part)
    plans = "nnUNetPlans" if memory is None else f"nnUNetPlans{memory:g}GB"
    if not (shared / f"{plans}.done").exists():
        preprocess(job, shared, plans, memory)
        (shared / f"{plans}.done").touch()

    import torch
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class Timed(nnUNetTrainer):
        """The iterations of `run_training`, as many as the clock allows."""

        def run_training(self) -> None:
            self.on_train_start()
            self.network.train()
            edges = self.configuration_manager.patch_size
            while clock.more():
                rate = self.initial_lr * (1 - clock.share()) ** 0.9
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.train_step(next(self.dataloader_train))
                clock.step(self.batch_size * int(np.prod(edges)))
            self.disable_checkpointing = True
            self.on_train_end()  # ends the processes that load data

    folder = shared / "preprocessed" / NAME
    description = load_json(str(folder / "dataset.json"))
    plan = load_json(str(folder / f"{plans}.json")) | {"continue_training": False}
    trainer = Timed(plan, "2d", "all", description, torch.device("cpu"))
    trainer.initialize()
    trainer.run_training()
    configuration = trainer.configuration_manager
    recipe = {
        "batch": trainer.batch_size,
        "crop": [int(edge) for edge in configuration.patch_size],
        "plan": f"planned for {8 if memory is None else memory:g} GB",
    }
    return predictor(trainer), trainer.network, recipe


def preprocess(job: Any, shared: Path, plans: str, memory: float | None) -> None:
    """What `nnUNetv2_plan_and_preprocess -c 2d` does, and a planner's memory where given."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnu

    raw = shared / "raw" / NAME
    if not (raw / "dataset.json").exists():
        to_nnunet(job, raw)
        nnu.extract_fingerprints([1], num_processes=job.threads, check_dataset_integrity=True)
    nnu.plan_experiments([1], gpu_memory_target_in_gb=memory, overwrite_plans_name=plans)
    nnu.preprocess([1], plans, configurations=("2d",), num_processes=(job.threads,))


def to_nnunet(job: Any, folder: Path) -> None:
    """The training pairs under nnU-Net's names, masks with classes as 0, 1, 2."""
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    for part in ("imagesTr", "labelsTr"):
        shutil.rmtree(folder / part, ignore_errors=True)
        (folder / part).mkdir(parents=True)
    for stem in job.train:
        source = Path(job.shared)
        shutil.copyfile(source / f"images/{stem}.png", folder / f"imagesTr/{stem}_0000.png")
        classes = read_classes(source / f"masks/{stem}.png", job.values)
        Image.fromarray(classes).save(folder / f"labelsTr/{stem}.png")
    channels = ("grey",) if job.channels == 1 else ("R", "G", "B")
    generate_dataset_json(
        str(folder),
        dict(enumerate(channels)),
        {name: index for index, name in enumerate(job.classes)},
        len(job.train),
        ".png",
    )


def predictor(trainer: Any) -> Any:
    """Its predictor with its defaults: tiles that overlap by half, Gaussian, mirrored."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    tool = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
    tool.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )

    def predict(image: Any) -> Any:
        pixels = image.transpose(2, 0, 1)[:, None].astype(np.float32)  # (C, 1, H, W)
        return tool.predict_single_npy_array(pixels, {"spacing": (999, 1, 1)})[0]

    return predict
