"""One tool reads one set of images and masks as its documentation says; see odd_inputs.py.

    python benchmarks/odd_peers.py TOOL IMAGES MASKS OUT [--suffix _mask] [--milesial CHECKOUT]

Runs in the interpreter of the tool. Writes OUT/read.npz with what would be trained on, as
"image NAME" (H, W, C) and "mask NAME" (H, W) or (H, W, C), and OUT/end.json with the error, where
there was one, the step that it came from and the versions. What the tool prints is left as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from glob import glob
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import numpy as np

Read = Iterator[tuple[str, Any, Any]]
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
step = "start"  # the part of the tool that is running, for the report of an error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--suffix", default="", help="what the masks' names have after the images'")
    parser.add_argument("--milesial", type=Path, help="a checkout of milesial/Pytorch-UNet")
    options = parser.parse_args()
    read: dict[str, Any] = {}
    errors: list[str] = []
    tool, packages = TOOLS[options.tool]
    try:
        for name, image, mask in tool(options):
            read |= {f"image {name}": np.asarray(image), f"mask {name}": np.asarray(mask)}
    except Exception as error:  # whatever a tool raises is what is measured
        errors = chain(error)
    np.savez(options.out / "read.npz", **read)
    have = {found.name for found in distributions()}
    versions = {name: version(name) for name in packages if name in have}
    end = {"step": step, "errors": errors, "versions": versions}
    options.out.joinpath("end.json").write_text(json.dumps(end))


def chain(error: BaseException | None) -> list[str]:
    """The error and those that it came from; a worker's printed traceback says nothing more."""
    texts = []
    while error is not None:
        if type(error).__name__ not in ("RemoteTraceback", "_RemoteTraceback"):
            texts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return texts


def now(name: str) -> None:
    global step
    step = name


def contorno(options: argparse.Namespace) -> Read:
    """`contorno check`, then the pairs that it would train on."""
    now("check")
    findings = options.out / "check.json"
    words = ["contorno", "check", str(options.images), str(options.masks), "--json", str(findings)]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    if done.returncode not in (0, 1, 2) or not findings.exists():
        raise RuntimeError(done.stderr[-2000:])
    for finding in json.loads(findings.read_text())["findings"]:
        if finding["severity"] != "note":
            print("{severity}: {kind}: {path}: {what}; expected {expected}".format(**finding))
    now("reading")
    from contorno.data.dataset import load
    from contorno.data.pairs import find_pairs
    from contorno.errors import InputError

    try:
        dataset, _ = load(find_pairs(options.images, options.masks).pairs, workers=0)
    except InputError:
        if done.returncode == 0:  # what check lets pass must be read
            raise
        return
    for index, name in enumerate(dataset.names):
        image, mask = dataset.read(index)
        yield name, image.astype(np.float32), mask


def nnunet(options: argparse.Namespace) -> Read:
    """What `nnUNetv2_plan_and_preprocess -d 1 -c 2d --verify_dataset_integrity` does."""
    now("conversion")
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(options.out / name)
    to_nnunet(options, options.out / "raw/Dataset001_Odd")
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnu

    now("verify_dataset_integrity")
    nnu.verify_dataset_integrity(str(options.out / "raw/Dataset001_Odd"), 1)
    now("fingerprint and plan")
    with open(os.devnull, "w") as nothing:  # the plan's own words would look like warnings
        printed, sys.stdout = sys.stdout, nothing
        nnu.extract_fingerprints([1], num_processes=1, show_progress_bar=False)
        nnu.plan_experiments([1])
        now("preprocess")
        nnu.preprocess([1], configurations=("2d",), num_processes=(1,), show_progress_bar=False)
        sys.stdout = printed
    now("reading")
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    cases = nnUNetDatasetBlosc2(str(options.out / "preprocessed/Dataset001_Odd/nnUNetPlans_2d"))
    for name in cases.identifiers:
        data, seg, _, properties = cases.load_case(name)
        yield name, uncrop(data, properties), np.maximum(uncrop(seg, properties)[..., 0], 0)


def to_nnunet(options: argparse.Namespace, folder: Path) -> None:
    """Copy the files under nnU-Net's names; other formats are re-saved as its converters do.

    Images and masks must have one lossless ending: that of the images, or PNG.
    """
    from skimage import io

    files = {"imagesTr": ordinary(options.images), "labelsTr": ordinary(options.masks)}
    stems = [path.stem for path in files["imagesTr"]]
    ending = commonest_ending(files["imagesTr"])
    ending = ending if ending in (".png", ".tif", ".bmp") else ".png"
    channels = 0
    for part, paths in files.items():
        (folder / part).mkdir(parents=True)
        for path in paths:
            stem = path.stem if part == "imagesTr" else path.stem.removesuffix(options.suffix)
            target = folder / part / (stem + ("_0000" if part == "imagesTr" else "") + ending)
            if target.exists():
                raise NotImplementedError(f"two files are {target.name}: the layout has one")
            if path.suffix.lower() == ending:
                shutil.copyfile(path, target)
            else:
                io.imsave(target, io.imread(path), check_contrast=False)
            if not channels:
                first = io.imread(target)
                channels = first.shape[2] if first.ndim == 3 else 1
    names = ("grey",) if channels == 1 else ("R", "G", "B", "4", "5")[:channels]
    description = {
        "channel_names": {str(index): name for index, name in enumerate(names)},
        "labels": {"background": 0, "foreground": 1},
        "numTraining": len(stems),
        "file_ending": ending,
    }
    folder.joinpath("dataset.json").write_text(json.dumps(description))


def uncrop(cropped: Any, properties: dict[str, Any]) -> Any:
    """(C, 1, h, w) as preprocessed to (H, W, C): nnU-Net cuts off what is zero at the border."""
    cropped = np.asarray(cropped[:])
    (_, (top, bottom), (left, right)) = properties["bbox_used_for_cropping"]
    height, width = properties["shape_before_cropping"][1:]
    whole = np.full((height, width, len(cropped)), cropped.min(), np.float32)
    whole[top:bottom, left:right] = cropped[:, 0].transpose(1, 2, 0)
    return whole


def monai(options: argparse.Namespace) -> Read:
    """The project's tutorial 2d_segmentation/torch/unet_training_dict.py: one epoch.

    Every pair is both trained on and validated with, so that either may find fault with it.
    """
    import torch
    from monai.data import DataLoader, Dataset, decollate_batch, list_data_collate
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceLoss
    from monai.metrics import DiceMetric
    from monai.networks.nets import UNet
    from monai.transforms import (
        Activations,
        AsDiscrete,
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        RandCropByPosNegLabeld,
        RandRotate90d,
        ScaleIntensityd,
    )

    keys = ["img", "seg"]
    pairs = [{"img": str(i), "seg": str(m)} for i, m in zipped(options)]
    reading = [LoadImaged(keys=keys), EnsureChannelFirstd(keys=keys), ScaleIntensityd(keys=keys)]
    now("reading")
    loader = DataLoader(Dataset(pairs, Compose(reading)), batch_size=1)
    for pair, batch in zip(pairs, loader, strict=True):
        image, mask = (batch[key][0].numpy().T for key in keys)  # (C, W, H) to (H, W, C)
        yield Path(pair["img"]).stem, image, mask[..., 0] if mask.shape[2] == 1 else mask
    now("training")
    crop = RandCropByPosNegLabeld(
        keys=keys, label_key="seg", spatial_size=[48, 48], pos=1, neg=1, num_samples=4
    )
    turn = RandRotate90d(keys=keys, prob=0.5, spatial_axes=(0, 1))
    train = Dataset(pairs, Compose([*reading, crop, turn]))
    channels = loader.dataset[0]["img"].shape[0]  # the tutorial's 1, for these images
    network = UNet(2, channels, 1, channels=(4, 8), strides=(2,))
    loss = DiceLoss(sigmoid=True)
    torch.manual_seed(0)
    for batch in DataLoader(train, batch_size=2, collate_fn=list_data_collate):
        loss(network(batch["img"]), batch["seg"]).backward()
    now("validation")
    metric = DiceMetric(include_background=True, reduction="mean", get_not_nans=False)
    finish = Compose([Activations(sigmoid=True), AsDiscrete(threshold=0.5)])
    for batch in loader:
        with torch.no_grad():
            outputs = sliding_window_inference(batch["img"], (48, 48), 4, network)
        metric(y_pred=[finish(one) for one in decollate_batch(outputs)], y=batch["seg"])
    metric.aggregate()


def notebook(options: argparse.Namespace) -> Read:
    """The usual notebook: files sorted and zipped, RGB and L, 512 x 512, divided by 255."""
    from PIL import Image

    now("reading")
    for image, mask in zipped(options):
        size, how = (512, 512), Image.Resampling.BILINEAR
        picture = Image.open(image).convert("RGB").resize(size, how)
        drawing = Image.open(mask).convert("L").resize(size, how)
        yield (
            image.stem,
            np.asarray(picture, np.float32) / 255,
            np.asarray(drawing, np.float32) / 255,
        )


def milesial(options: argparse.Namespace) -> Read:
    """BasicDataset of a checkout, and the losses of its train.py for --classes 2."""
    import torch
    from torch.nn import functional

    sys.path.insert(0, str(options.milesial))
    from utils.data_loading import BasicDataset

    now("reading")
    dataset = BasicDataset(str(options.images), str(options.masks), 1.0, options.suffix)
    items = [dataset[index] for index in range(len(dataset))]
    for name, item in zip(dataset.ids, items, strict=True):
        yield name, item["image"].permute(1, 2, 0).numpy(), item["mask"].numpy()
    now("training")
    channels = Counter(len(item["image"]) for item in items).most_common(1)[0][0]
    network = torch.nn.Conv2d(channels, 2, 3, padding=1)  # in place of its U-Net
    for item in items:
        mask = item["mask"][None]
        functional.cross_entropy(network(item["image"][None]), mask)
        functional.one_hot(mask, 2)  # what its Dice loss needs


def zipped(options: argparse.Namespace) -> list[tuple[Path, Path]]:
    """sorted(glob("*.png")) of both folders side by side, with the ending that most files have."""
    names = []
    for folder in (options.images, options.masks):
        ending = commonest_ending(list(folder.iterdir()))
        names.append([Path(name) for name in sorted(glob(f"{folder}/*{ending}"))])
    return list(zip(*names, strict=False))


def ordinary(folder: Path) -> list[Path]:
    """Image files of a folder as `ls` shows them."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".")
    ]


def commonest_ending(paths: list[Path]) -> str:
    return Counter(path.suffix for path in paths).most_common(1)[0][0]


TOOLS: dict[str, tuple[Callable[[argparse.Namespace], Read], tuple[str, ...]]] = {
    "contorno": (contorno, ("contorno", "pillow")),
    "nnunet": (nnunet, ("nnunetv2", "scikit-image", "pillow")),
    "monai": (monai, ("monai", "torch", "pillow", "itk")),
    "notebook": (notebook, ("pillow",)),
    "milesial": (milesial, ("torch", "pillow")),
}

if __name__ == "__main__":
    main()
