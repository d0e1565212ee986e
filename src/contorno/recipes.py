"""Recipes: from the data's fingerprint, the machine and the user's wishes to a configuration.

`classic` is the reference notebook R1 to the letter (and R2 with `up="bilinear"`); `auto` is the
default. Every number has its reason, which goes to config.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contorno.config import Config, DataConfig, build, sound
from contorno.errors import ConfigError
from contorno.fingerprint import Fingerprint
from contorno.hardware import Hardware
from contorno.losses import loss_function
from contorno.models.encoder import maps_of

RECIPES = ("auto", "classic")
_ONE_RECIPE = {"encoder": "auto", "crop": "auto", "size": "classic"}  # crops, or whole pictures
DEFAULT_TIME = 600.0  # seconds of training when neither a time nor a number of epochs is given
ENOUGH = 2000  # steps that a time must have room for before a larger network is worth its steps
_SIZES = ((16, 2), (32, 2), (32, 1))  # base width and patch of the networks, from the quickest on
_OF_IMAGES = ("mean of the training images", "spread of the training images")
_NETWORK = ("widths", "up", "patch", "encoder")
_PREPROCESSING = ("size", "normalise")


def resolve(
    recipe: str, data: DataConfig, seen: Fingerprint, hardware: Hardware, wishes: Mapping[str, Any]
) -> Config:
    """The configuration of a run.

    Args:
        recipe: "auto" or "classic".
        data: where the pairs come from.
        seen: what they look like.
        hardware: what trains.
        wishes: values the user gave, by their names in config.toml; they win over the recipe's.

    Raises:
        ConfigError: an unknown recipe, or values that cannot work (all are listed).
    """
    _require_fitting(recipe, wishes)
    choices = (
        _classic(data, seen, wishes) if recipe == "classic" else _auto(data, seen, hardware, wishes)
    )
    choices["training.device"] = (hardware.accelerator, hardware.reason)
    choices["training.precision"] = ("bf16" if hardware.bf16 else "32", hardware.reason)
    values: dict[str, dict[str, Any]] = {
        "network": {},
        "preprocessing": {},
        "training": {"recipe": recipe},
    }
    reasons: dict[str, str] = {}
    for name, (value, reason) in choices.items():
        section, _, field = name.partition(".")
        values[section][field] = value
        reasons[name] = reason
    for section, asked in _sections(wishes).items():
        values[section] |= asked
        reasons |= {f"{section}.{field}": "as asked" for field in asked}
    config: Config = build(Config, "these options", data=data, reasons=reasons, **values)
    _check(config, seen)
    return config


def sound_wishes(recipe: str, wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The wishes in the types of config.toml; ConfigError for what no data could make right."""
    held = sound("these options", **_sections(wishes))
    _require_fitting(recipe, held)
    if "encoder" in held:
        maps_of(held["encoder"])
    return held


def _require_fitting(recipe: str, wishes: Mapping[str, Any]) -> None:
    if recipe not in RECIPES:
        raise ConfigError(f"recipe {recipe!r} is unknown; choose {' or '.join(RECIPES)}")
    for name, of in _ONE_RECIPE.items():
        if name in wishes and recipe != of:
            raise ConfigError(f"{name} is for recipe {of}, not {recipe}; leave one out")
    loss, bounded = wishes.get("loss", "mse"), wishes.get("up") == "bilinear"
    if recipe == "classic" and bounded and loss != "mse":
        raise ConfigError(f"loss {loss!r} needs plain outputs, not a sigmoid's; use loss mse")


def _sections(wishes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Wishes by the section of config.toml that they stand in."""
    sections: dict[str, dict[str, Any]] = {"network": {}, "preprocessing": {}, "training": {}}
    for field, value in wishes.items():
        network, preprocessing = field in _NETWORK, field in _PREPROCESSING
        name = "network" if network else "preprocessing" if preprocessing else "training"
        sections[name][field] = value
    return sections


Choices = dict[str, tuple[Any, str]]  # dotted name -> value and reason


def _classic(data: DataConfig, seen: Fingerprint, wishes: Mapping[str, Any]) -> Choices:
    """R1: MSE on plain outputs of a transposed U-Net; R2's network when `up` is bilinear."""
    bilinear = wishes.get("up") == "bilinear"
    largest = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0}.get(seen.dtype, 1.0)
    batch = wishes.get("batch_size") or 4
    r1 = "as in R1"
    mean, std = (0.0,) * seen.channels, (largest,) * seen.channels
    why = r1, f"R1 divides {seen.dtype} by its largest value"
    if "normalise" in wishes:
        mean, std, why = seen.mean, seen.std, _OF_IMAGES
    return {
        "network.in_channels": (seen.channels, f"the images have {seen.channels} channel(s)"),
        "network.out_channels": _outputs(seen),
        "network.widths": ((64, 128, 256, 512, 1024), r1),
        "network.up": ("transposed", r1),
        "network.activation": (
            "sigmoid" if bilinear else None,
            "R2 ends in a sigmoid" if bilinear else "R1 ends in plain values",
        ),
        "preprocessing.mean": (mean, why[0]),
        "preprocessing.std": (std, why[1]),
        "preprocessing.size": ((512, 512), r1),
        "preprocessing.dtype": (seen.dtype, "type of the images"),
        **_reading(data, seen),
        "preprocessing.output": _output(
            wishes.get("loss", "mse"), bounded=bilinear, exclusive=seen.exclusive
        ),
        "training.loss": ("mse", r1),
        "training.optimizer": ("adam", r1),
        "training.learning_rate": (
            1e-3,
            "R1 asks for a small one; with 1e-4 R2 was far from done after 100 epochs",
        ),
        "training.weight_decay": (1e-5, "R1 asks for a small one"),
        "training.schedule": ("constant", r1),
        "training.epochs": (100, r1),
        "training.batch_size": (4, r1),
        "training.steps_per_epoch": (-(-seen.images // batch), "every image once"),
        "training.augment": (False, r1),
        "training.tune": (False, "the reference draws from a probability of 0.5, and nothing else"),
    }


def _auto(
    data: DataConfig, seen: Fingerprint, hardware: Hardware, wishes: Mapping[str, Any]
) -> Choices:
    """The default; docs/benchmarks.md has the figures behind each "better" on sets."""
    crop = wishes.get("crop") or min(256, max(64, -(-min(seen.height, seen.width) // 32) * 32))
    on_cpu = hardware.accelerator == "cpu"
    batch = wishes.get("batch_size") or (4 if on_cpu else 16)
    time = None if "epochs" in wishes else wishes.get("time", DEFAULT_TIME)
    crops = max(1, round(seen.height * seen.width / crop**2))
    loss = "ce+dice" if seen.exclusive else "bce+dice"
    base, patch = _SIZES[-1 if time is None else 0]
    given = "widths" in wishes or "patch" in wishes  # then `larger` chooses no other
    short = "that of the quickest network" if given else "the time is short for a larger one"
    size = "the largest" if time is None else short
    room = crop >= patch * 2 ** len(wishes.get("widths", _widths(base)))
    choices: Choices = {
        "network.in_channels": (seen.channels, f"the images have {seen.channels} channel(s)"),
        "network.out_channels": _outputs(seen),
        "network.widths": (_widths(base), size),
        "network.patch": (patch, size) if room else (1, f"crops of {crop} have no room for more"),
        "network.up": ("transposed", "a third less arithmetic than bilinear at equal widths"),
        "preprocessing.mean": (seen.mean, _OF_IMAGES[0]),
        "preprocessing.std": (seen.std, _OF_IMAGES[1]),
        "preprocessing.normalise": ("image", "better masks on five sets in another light"),
        "preprocessing.dtype": (seen.dtype, "type of the images"),
        **_reading(data, seen),
        "preprocessing.output": _output(wishes.get("loss", loss), exclusive=seen.exclusive),
        "training.loss": (loss, "as in nnU-Net; better masks on five sets than either alone"),
        "training.optimizer": (
            "muon",
            "better masks than AdamW on five sets, three seeds each",
        ),
        "training.learning_rate": (1e-3, "better than half or twice as much on three sets of five"),
        "training.schedule": ("cosine", "ends annealed: better masks than constant on all sets"),
        "training.epochs": (100, "enough for small sets when no time is given"),
        "training.batch_size": (
            batch,
            "better than 2 on four sets of five, than 8 on all"
            if on_cpu
            else "to fill a GPU; not measured",
        ),
        "training.crop": (crop, f"images are about {seen.width} x {seen.height}"),
        "training.steps_per_epoch": (
            -(-seen.images * crops // batch),
            f"{crops} crop(s) of each image cover its area",
        ),
        "training.augment": (True, "turns, scale, light, blur: better masks on five sets"),
        "training.patience": (
            max(20, wishes["epochs"] // 3) if "epochs" in wishes else 0,
            "epochs without a better mask before annealing begins early"
            if "epochs" in wishes
            else "the time is used to its end",
        ),
        "training.tune": (True, "threshold and the like: kept where both validation halves gain"),
    }
    if "epochs" not in wishes:
        choices["training.time"] = (time, "ten minutes unless told otherwise")
    return choices | (_encoded(wishes["encoder"]) if wishes.get("encoder") else {})


def _encoded(encoder: str) -> Choices:
    """What recipe auto does otherwise where the encoder comes with weights.

    Not measured: usual values for fine-tuning.
    """
    channels, patch = maps_of(encoder)
    widths = (*(min(32 * 2**level, n) for level, n in enumerate(channels[:-1])), channels[-1])
    return {
        "network.widths": (widths, "that of a U-Net, nowhere above the encoder's own"),
        "network.patch": (patch, f"{encoder} begins at 1/{patch} of the picture"),
        "training.optimizer": ("adamw", "small steps keep what the encoder has learnt"),
        "training.learning_rate": (2e-4, "as in the examples of segmentation_models.pytorch"),
    }


def larger(config: Config, steps: int) -> Config | None:
    """A configuration of the largest network of which the time allows enough steps.

    Args:
        config: of recipe auto with its quickest network; None comes back for others, for a network
            that was asked for, and where the quickest is right.
        steps: of that network that fit the time.
    """
    network, asked = config.network, ("network.widths", "network.patch", "network.encoder")
    (quick, _), *others = _SIZES
    if network.widths != _widths(quick):
        return None
    if config.training.recipe != "auto" or "as asked" in map(config.reasons.get, asked):
        return None
    for base, patch in reversed(others):
        # by arithmetic; small ones waste some
        least = steps * (quick / network.patch * patch / base) ** 2
        room = (config.training.crop or 0) >= patch * 2 ** len(_widths(base))
        if least >= ENOUGH and room:
            reason = f"the time has room for about {least:.0f} steps, or more"
            return config.replace("network", reason, widths=_widths(base), patch=patch)
    return None


def _widths(base: int) -> tuple[int, ...]:
    return tuple(base * 2**level for level in range(5))


def _outputs(seen: Fingerprint) -> tuple[int, str]:
    if seen.outputs == 1:
        return 1, "two classes"
    return seen.outputs, "one for each class" + ("" if seen.multilabel else ", background too")


def _reading(data: DataConfig, seen: Fingerprint) -> Choices:
    """How pictures are read and cut off, which a model must do as its training did."""
    choices: Choices = {
        "preprocessing.range": (seen.range, "of the training images"),
        "preprocessing.dimmest": (seen.dimmest, "of the training images"),
    }
    if seen.cut is not None:
        why = "values beyond are outliers: over 3 times the range of 99.8% away from it"
        choices["preprocessing.low"] = (seen.cut[0], why)
        choices["preprocessing.high"] = (seen.cut[1], why)
    if seen.upright:
        why = "the training masks fit the pictures when they are turned as EXIF asks"
        choices["preprocessing.upright"] = (True, why)
    if seen.pages:
        choices["preprocessing.pages"] = (True, "as asked")
    if data.channels:
        choices["preprocessing.channels"] = (data.channels, "as asked")
    return choices


def _output(loss: str, *, bounded: bool = False, exclusive: bool = False) -> tuple[str, str]:
    """How the network's output becomes probabilities, which is for the loss to say."""
    if loss != "mse":
        if exclusive:
            return "softmax", "classes exclude each other"
        return "sigmoid", "each class has a probability of its own"
    return "identity" if bounded else "clamp", "values near 0..1 are the probabilities"


def _check(config: Config, seen: Fingerprint) -> None:
    """What sections cannot see on their own."""
    training, network = config.training, config.network
    loss_function(training.loss, exclusive=seen.exclusive)  # raises where it does not fit
    if training.augment and training.crop is None:
        raise ConfigError("augmentation needs square crops: give crop, or leave augmentation off")
    smallest = training.crop or min(config.preprocessing.size or (seen.height, seen.width))
    if smallest < network.patch * 2 ** len(network.widths):
        raise ConfigError(
            f"{len(network.widths)} widths halve the picture {len(network.widths) - 1} times"
            + (f" after a patch of {network.patch}" if network.patch > 1 else "")
            + f", and {smallest} pixels leave less than 2 at the bottom; give "
            + ("more pixels" if network.encoder else "fewer widths or more pixels")
        )
    once = -(-seen.images // training.batch_size)
    if training.crop is None and training.steps_per_epoch > once:
        raise ConfigError(
            f"steps_per_epoch ({training.steps_per_epoch}) must be <= {once}: without crops an "
            "epoch sees every image once"
        )
