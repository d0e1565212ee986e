"""One peer trains on the train list and draws the masks of the test list; see accuracy.py.

    python benchmarks/accuracy_peers.py JOB.json

Runs in the interpreter of the peers. The clock starts at the first step: reading the set, building
the network and nnU-Net's preprocessing cost nothing. All train in float32 on every core, as their
own examples do on a CPU. Writes the masks into the job's folder, and report.json beside them.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_sets import read_classes, read_image
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "numpy")
Predict = Callable[[Any], Any]  # uint8 (H, W, C) to classes (H, W)
Method = Callable[["Job", "Clock"], tuple[Predict, Any, dict[str, Any]]]


@dataclass(frozen=True)
class Job:
    """What accuracy.py asks for: seconds or pixels, and the folders. `shared` holds the set."""

    method: str
    shared: str
    work: str
    train: list[str]
    test: list[str]
    classes: dict[str, int]
    seed: int
    seconds: float | None
    pixels: int | None

    @property
    def values(self) -> list[int]:
        return list(self.classes.values())

    @property
    def outputs(self) -> int:
        """Channels of a network: one for two classes."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    @property
    def threads(self) -> int:
        return len(os.sched_getaffinity(0))

    @property
    def channels(self) -> int:
        return self.pair(self.train[0])[0].shape[2]

    def pair(self, stem: str) -> tuple[Any, Any]:
        """uint8 (H, W, C) and classes (H, W) of a training stem."""
        folder = Path(self.shared)
        classes = read_classes(folder / f"masks/{stem}.png", self.values)
        return read_image(folder / f"images/{stem}.png"), classes


class Clock:
    """Counts steps, and ends before one that would not fit into the time; there is always one."""

    def __init__(self, seconds: float | None, pixels: int | None) -> None:
        self.seconds, self.pixels = seconds, pixels
        self.steps = self.seen = 0
        self.marks: list[float] = []  # times, after every step

    def elapsed(self) -> float:
        return time.perf_counter() - self.marks[0]

    def more(self) -> bool:
        if not self.steps:
            self.marks = [time.perf_counter()]
            return True
        if self.seconds is None:
            return self.seen < self.pixels
        last = self.marks[-6:]  # five steps: the first of all is slow, and tells little
        return self.elapsed() + (last[-1] - last[0]) / (len(last) - 1) <= self.seconds

    def share(self) -> float:
        """Of the training that is over, 0..1: where a schedule stands."""
        used = self.seen / self.pixels if self.seconds is None else self.elapsed() / self.seconds
        return min(used, 1.0)

    def step(self, pixels: int) -> None:
        self.steps += 1
        self.seen += pixels
        self.marks.append(time.perf_counter())


def main() -> None:
    import torch

    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)
    began = time.perf_counter()
    clock = Clock(job.seconds, job.pixels)
    predict, network, recipe = METHODS[job.method](job, clock)
    trained = time.perf_counter()
    masks = Path(job.work) / "masks"
    masks.mkdir(parents=True, exist_ok=True)
    for stem in job.test:
        with torch.no_grad():
            classes = np.asarray(predict(read_image(Path(job.shared) / f"images/{stem}.png")))
        drawn = np.asarray(job.values, np.uint8)[classes]
        Image.fromarray(drawn).save(masks / f"{stem}.png")
    packages = (*PACKAGES, *recipe.pop("packages", ()))
    report = {
        "preparing_seconds": round(clock.marks[0] - began, 1),
        "training_seconds": round(clock.marks[-1] - clock.marks[0], 1),
        "predicting_seconds": round(time.perf_counter() - trained, 1),
        "steps": clock.steps,
        "pixels": clock.seen,
        "parameters": sum(weights.numel() for weights in network.parameters()),
        "recipe": recipe,
        "versions": {
            found.name: found.version for found in distributions() if found.name in packages
        },
    }
    (Path(job.work) / "report.json").write_text(json.dumps(report))


def endless(job: Job, batch: int) -> Iterator[list[str]]:
    """Batches of shuffled stems, epoch after epoch; the last of an epoch may be smaller."""
    random = np.random.default_rng(job.seed)
    while True:
        order = random.permutation(job.train).tolist()
        yield from (order[first : first + batch] for first in range(0, len(order), batch))


def classes_of(output: Any) -> Any:
    """From (1, K, H, W): the largest channel, or for one channel what is above 0.5."""
    output = output[0]
    return ((output[0] > 0.5) if len(output) == 1 else output.argmax(0)).numpy().astype(np.uint8)


def colour(image: Any) -> Any:
    """Three channels, as `convert("RGB")` gives."""
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def notebook(job: Job, clock: Clock, name: str) -> tuple[Predict, Any, dict[str, Any]]:
    """R1 or R2 as its notebook trains it: 512 x 512, MSE, Adam, batches of 4, eager float32.

    With three classes the mask becomes one channel each, and the largest output wins. The learning
    rate and weight decay, "small" in the notebooks, are those of contorno's classic recipe.
    """
    import torch
    from torch.nn.functional import interpolate, mse_loss

    sys.path.insert(0, str(ROOT / "tests"))
    import notebooks

    network = getattr(notebooks, name)(3, job.outputs)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-5)

    def tensor(pixels: Any) -> Any:
        return torch.from_numpy(pixels.astype(np.float32).transpose(2, 0, 1))[None]

    def resized(pixels: Any, size: tuple[int, ...] = (512, 512)) -> Any:
        return interpolate(pixels, size, mode="bilinear", antialias=True)

    def planes(classes: Any) -> Any:
        first = 1 if job.outputs == 1 else 0
        return np.stack([classes == index for index in range(first, len(job.classes))], -1)

    batches = endless(job, 4)
    while clock.more():
        pairs = [job.pair(stem) for stem in next(batches)]
        images = torch.cat([resized(tensor(colour(image)) / 255) for image, _ in pairs])
        targets = torch.cat([resized(tensor(planes(classes))) for _, classes in pairs])
        optimizer.zero_grad()
        loss = mse_loss(network(images), targets)
        loss.backward()
        optimizer.step()
        clock.step(len(pairs) * 512 * 512)
    network.eval()

    def predict(image: Any) -> Any:
        output = network(resized(tensor(colour(image)) / 255))
        return classes_of(resized(output, image.shape[:2]))

    recipe = {"batch": 4, "crop": [512, 512], "learning_rate": 1e-3, "weight_decay": 1e-5}
    return predict, network, recipe


def monai(job: Job, clock: Clock) -> tuple[Predict, Any, dict[str, Any]]:
    """The project's tutorial 2d_segmentation/torch/unet_training_dict.py with DiceCELoss and flips.

    Its fast training guide's two hints are followed: the set is cached after the transforms that
    are not random, and so are the places of the foreground.
    """
    import torch
    from monai.data import CacheDataset, DataLoader, list_data_collate
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet
    from monai.transforms import (
        Compose,
        FgBgToIndicesd,
        RandCropByPosNegLabeld,
        RandFlipd,
        RandRotate90d,
        RandScaleIntensityd,
        ScaleIntensity,
        ScaleIntensityd,
        ToTensord,
    )
    from monai.utils import set_determinism

    set_determinism(job.seed)
    keys, edge = ("img", "seg"), 96
    transforms = Compose(
        [
            ToTensord(keys),
            ScaleIntensityd("img"),
            FgBgToIndicesd("seg"),
            RandCropByPosNegLabeld(
                *(keys, "seg", (edge, edge)),
                **{"pos": 1, "neg": 1, "num_samples": 4},
                fg_indices_key="seg_fg_indices",
                bg_indices_key="seg_bg_indices",
            ),
            RandFlipd(keys, prob=0.5, spatial_axis=0),
            RandFlipd(keys, prob=0.5, spatial_axis=1),
            RandRotate90d(keys, prob=0.5, spatial_axes=(0, 1)),
            RandScaleIntensityd("img", factors=0.1, prob=0.5),
        ]
    )
    pairs = []
    for stem in job.train:
        image, classes = job.pair(stem)
        pairs.append({"img": image.transpose(2, 0, 1).astype(np.float32), "seg": classes[None]})
    dataset = CacheDataset(pairs, transforms, progress=False)
    loader = DataLoader(dataset, batch_size=2, shuffle=True, collate_fn=list_data_collate)
    network = UNet(2, job.channels, job.outputs, (16, 32, 64, 128, 256), (2,) * 4, num_res_units=2)
    many = job.outputs > 1
    loss_function = DiceCELoss(sigmoid=not many, softmax=many, to_onehot_y=many)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    batches = (batch for _ in iter(int, 1) for batch in loader)
    while clock.more():
        batch = next(batches)
        optimizer.zero_grad()
        loss_function(network(batch["img"]), batch["seg"].float()).backward()
        optimizer.step()
        clock.step(batch["seg"].numel())
    network.eval()
    scale = ScaleIntensity()

    def predict(image: Any) -> Any:
        pixels = scale(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)))[None]
        logits = sliding_window_inference(pixels, (edge, edge), 4, network)
        return classes_of(torch.as_tensor(logits if many else logits.sigmoid()))

    recipe = {"batch": 8, "crop": [edge, edge], "learning_rate": 1e-3, "packages": ("monai",)}
    return predict, network, recipe


def smp(job: Job, clock: Clock) -> tuple[Predict, Any, dict[str, Any]]:
    """The project's example camvid_segmentation_multiclass.ipynb, without ImageNet weights.

    Unet with resnet34, Dice loss, Adam 2e-4 with a cosine to 1e-5 over the whole training, batches
    of 8 crops of 320 with the example's augmentation.
    """
    import torch

    declare_torchvision()
    import segmentation_models_pytorch as package

    network = package.Unet("resnet34", encoder_weights=None, classes=job.outputs)
    mode = package.losses.BINARY_MODE if job.outputs == 1 else package.losses.MULTICLASS_MODE
    loss_function = package.losses.DiceLoss(mode, from_logits=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the encoder, as documented
    augment, edge, batch_size = augmentation(job.seed), 320, 8

    def tensor(images: list[Any]) -> Any:
        scaled = (np.stack(images) / 255 - mean) / std
        return torch.from_numpy(scaled.astype(np.float32).transpose(0, 3, 1, 2)).contiguous()

    pairs = {stem: job.pair(stem) for stem in job.train}
    batches = endless(job, batch_size)
    while clock.more():
        drawn = [
            augment(image=colour(pairs[stem][0]), mask=pairs[stem][1]) for stem in next(batches)
        ]
        for group in optimizer.param_groups:
            group["lr"] = 1e-5 + (2e-4 - 1e-5) * (1 + math.cos(math.pi * clock.share())) / 2
        optimizer.zero_grad()
        masks = torch.from_numpy(np.stack([one["mask"] for one in drawn])).long()
        logits = network(tensor([one["image"] for one in drawn]))
        loss_function(logits, masks).backward()
        optimizer.step()
        clock.step(len(drawn) * edge * edge)
    network.eval()

    def predict(image: Any) -> Any:
        height, width = image.shape[:2]
        around = ((0, -height % 32), (0, -width % 32), (0, 0))
        logits = network(tensor([np.pad(colour(image), around, mode="edge")]))
        logits = logits[..., :height, :width]
        return classes_of(logits.sigmoid() if job.outputs == 1 else logits)

    recipe = {
        "batch": batch_size,
        "crop": [edge, edge],
        "encoder_weights": None,
        "packages": ("segmentation_models_pytorch", "albumentations", "timm"),
    }
    return predict, network, recipe


def augmentation(seed: int) -> Any:
    """That of the example."""
    import albumentations as A

    light = A.RandomBrightnessContrast(p=1)
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(0.5, 1.5), translate_percent=(-0.1, 0.1), p=1),
            A.PadIfNeeded(320, 320),
            A.RandomCrop(320, 320),
            A.GaussNoise(p=0.2),
            A.Perspective(p=0.5),
            A.OneOf([A.CLAHE(p=1), light, A.RandomGamma(p=1)], p=0.9),
            A.OneOf([A.Sharpen(p=1), A.Blur(3, p=1), A.MotionBlur(3, p=1)], p=0.9),
            A.OneOf([light, A.HueSaturationValue(p=1)], p=0.9),
        ],
        seed=seed,
    )


def declare_torchvision() -> None:
    """Let torchvision be imported where its compiled part does not fit this PyTorch.

    PyPI's torchvision is built for CUDA. Its operators, of which the U-Net uses none, are missing
    beside a PyTorch for CPUs, and its import ends where it describes these two.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declare_torchvision.library = library  # it lasts as long as this object


def nnunet(job: Job, clock: Clock, memory: float | None = None) -> tuple[Predict, Any, Any]:
    from accuracy_nnunet import train

    predict, network, recipe = train(job, clock, memory=memory)
    return predict, network, recipe | {"fold": "all", "packages": ("nnunetv2",)}


METHODS: dict[str, Method] = {
    "nnunet": nnunet,
    "nnunet_small": lambda job, clock: nnunet(job, clock, 1.0),
    "R1": lambda job, clock: notebook(job, clock, "R1"),
    "R2": lambda job, clock: notebook(job, clock, "R2"),
    "monai": monai,
    "smp": smp,
}

if __name__ == "__main__":
    main()
