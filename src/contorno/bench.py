"""What this machine can do with a model: engines side by side, the training step, the peak.

The peak is what the processor reaches, in the same run, on a large matrix product and a large
convolution; shares of it count every multiplication and addition of the network's convolutions as
they stand in the model, whatever an engine makes of them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.card import ModelCard
from contorno.config import DataConfig, read_config
from contorno.data.dataset import Dataset
from contorno.engines import Engine, whole_image
from contorno.engines.select import (
    ENGINES,
    MOST_LOST,
    Source,
    fits,
    missing_for,
    quantise,
    write_bench,
)
from contorno.errors import ConfigError, ContornoError, InputError
from contorno.evaluate import image_score
from contorno.finish import finish
from contorno.hardware import Hardware, cores
from contorno.model import Model
from contorno.progress import bar, say
from contorno.reading import decode, read_pairs, reading_of
from contorno.runfolder import read_split

Array = NDArray[Any]
_COMPARED = 8  # pictures on which engines are compared with each other
_CALIBRATED = 64  # pictures that 8 bits are calibrated on, at most
_SCORED = 50  # validation pictures on which they are scored, at most
_FEWEST = 6  # validation pictures: fewer do not tell whether 8 bits lose anything
_AGREE = 0.999  # of the pixels: an engine that agrees less is not chosen by itself
_EXACT = Hardware("cpu", "32-true", "CPU, float32")


def bench(
    model: Model, data: DataConfig | None = None, *, size: int = 512, rounds: int = 5
) -> dict[str, Any]:
    """Measure, and keep what "auto" needs to know beside the model.

    Args:
        model: what is measured.
        data: pairs, of which one half calibrates 8 bits and the other is scored; the run's own
            pairs when None and they are still there.
        size: edge of the picture that is timed, where there is none.
        rounds: that all engines are timed in, one after the other.

    Returns:
        "engines": for each its name, ms, images_per_second, share_of_peak, agreement with PyTorch
        in float32 (share of equal mask pixels) and dice on the validation pictures; "left_out":
        reasons by engine; "peak": TFLOP/s; "training": the step; "fastest" of those that compute in
        the number format that was asked for, if one was.
    """
    if size < 1 or rounds < 1:
        raise ConfigError(f"size ({size}) and rounds ({rounds}) must be at least 1")
    sources, card = [member.source for member in model.members], model.card
    hardware = model.hardware
    calibration, validation = _given(model, data) if data is not None else _of_run(model)
    if calibration is None:
        pictures = [_noise(card, size)]
    else:
        pictures = [calibration.read(i)[0] for i in range(min(len(calibration), _CALIBRATED))]
    engines, left_out = _open(model, _no_8_bits(sources, None if calibration is None else pictures))
    times = _times(engines, pictures[0], rounds)
    peak = measure_peak(hardware)
    operations = sum(flop(source, *pictures[0].shape[:2]) for source in sources)
    exact = model.open("pytorch", hardware=_EXACT)
    masks = [_mask(exact, card, picture) for picture in pictures[:_COMPARED]]
    rows = []
    for name, engine in engines.items():
        seconds = float(np.median(times[name]))
        best = peak.get(engine.precision)
        equal = [
            float((_mask(engine, card, picture) == mask).mean())
            for picture, mask in zip(pictures, masks, strict=False)
        ]
        rows.append(
            {
                "engine": name,
                "name": engine.name,
                "ms": 1e3 * seconds,
                "ms_low": 1e3 * min(times[name]),
                "ms_high": 1e3 * max(times[name]),
                "images_per_second": 1 / seconds,
                "share_of_peak": None if best is None else operations / seconds / best,
                "agreement": float(np.mean(equal)),
                "dice": _dice(engine, card, validation),
            }
        )
    result = {
        "size": list(pictures[0].shape[:2]),
        "noise": calibration is None,
        "gflop": operations / 1e9,
        "peak": {name: None if p is None else p / 1e12 for name, p in peak.items()},
        "engines": rows,
        "left_out": left_out,
        "fastest": _fastest(rows, hardware, 0 if validation is None else len(validation)),
        "training": training_step(sources[0]),
    }
    for source in sources:
        write_bench(source, result)
    return result


def _given(model: Model, data: DataConfig) -> tuple[Dataset, Dataset]:
    whole, _ = read_pairs(data, cores(), card=model.card, keep=False)
    if len(whole) < 2:
        raise InputError("bench needs at least 2 pairs: one half calibrates, the other is scored")
    return whole.subset(whole.names[::2]), whole.subset(whole.names[1::2])


def _of_run(model: Model) -> tuple[Dataset | None, Dataset | None]:
    """Training and validation pairs of the model's run, if its files are still there.

    Of folds those of the first: the others have seen its validation pairs, so there only the
    differences between engines mean something.
    """
    run = model.members[0].run
    if run is None or not (run / "split.json").exists():
        return None, None
    parts = read_split(run / "split.json")
    few = {part: parts[part][:_CALIBRATED] for part in ("training", "validation")}
    pairs = [pair for part in few.values() for pair in part]
    gone = [file for pair in pairs for file in (*pair.images, *pair.masks) if not file.exists()]
    if gone:
        say(f"{gone[0]} of the run is gone; timing random noise instead of its pictures")
        return None, None
    data = read_config(run / "config.toml").data
    reading = reading_of(data, upright=model.card.preprocessing.upright)
    whole, _ = decode(pairs, reading, cores(), labels=parts["labels"], keep=False)
    usable = set(whole.names)
    training, validation = (
        whole.subset([pair.name for pair in part if pair.name in usable]) for part in few.values()
    )
    return training, validation


def _noise(card: ModelCard, size: int) -> Array:
    values = np.random.default_rng(0).integers(0, 255, (size, size, card.network.in_channels))
    return values.astype(card.preprocessing.dtype)


def _times(engines: dict[str, Engine], picture: Array, rounds: int) -> dict[str, list[float]]:
    """Seconds of each engine in each round, after one that sets things up."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    with bar("Timing", (rounds + 1) * len(engines)) as advance:
        for number in range(rounds + 1):
            for name, engine in engines.items():
                began = time.perf_counter()
                whole_image(engine, picture)
                if number:
                    times[name].append(time.perf_counter() - began)
                advance(name)
    return times


def _no_8_bits(sources: Sequence[Source], pictures: Sequence[Array] | None) -> str:
    """Make the 8-bit form of every model; why there is none, or nothing."""
    if pictures is None:
        return "needs images and masks: contorno bench MODEL IMAGES MASKS"
    if missing_for("openvino-int8"):
        return ""  # which is said of any engine
    try:
        for source in sources:
            quantise(source, pictures)
    except ContornoError as error:
        return str(error)
    return ""


def _open(model: Model, no_8_bits: str) -> tuple[dict[str, Engine], dict[str, str]]:
    """All engines that can run here, and why the others cannot."""
    engines: dict[str, Engine] = {}
    left_out: dict[str, str] = {}
    for name in ENGINES:
        if missing := missing_for(name):
            left_out[name] = f"{missing[0]} is not installed: {missing[1]}"
        elif name != "pytorch" and model.hardware.accelerator != "cpu":
            left_out[name] = "runs on the CPU only"
        elif name == "openvino-int8" and no_8_bits:
            left_out[name] = no_8_bits
        else:
            engines[name] = model.open(name)
    return engines, left_out


def _fastest(rows: Sequence[dict[str, Any]], hardware: Hardware, pictures: int) -> str:
    """The fastest that is as asked and exact enough.

    8 bits may lose `MOST_LOST` of Dice, on at least `_FEWEST` validation pictures.
    """
    best = max((row["dice"] for row in rows if row["dice"] is not None), default=None)
    fit = [
        row
        for row in rows
        if fits(row["engine"], hardware)
        and (
            best is not None and row["dice"] >= best - MOST_LOST and pictures >= _FEWEST
            if row["engine"] == "openvino-int8"
            else row["agreement"] >= _AGREE
        )
    ]
    return str(min(fit, key=lambda row: row["ms"])["engine"]) if fit else "pytorch"


def _mask(engine: Engine, card: ModelCard, picture: Array) -> Array:
    return finish(whole_image(engine, picture), card)


def _dice(engine: Engine, card: ModelCard, validation: Dataset | None) -> float | None:
    """Mean Dice on validation pictures, evenly taken where there are many."""
    if validation is None:
        return None
    step = -(-len(validation) // _SCORED)
    scores = []
    for index in range(0, len(validation), step):
        image, truth = validation.read(index)
        found = _mask(engine, card, image)
        scores.append(image_score(truth, found, validation.labels)[0].dice)
    return float(np.mean(scores))


def flop(source: Source, height: int, width: int) -> int:
    """Floating-point operations of the network for one picture."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    height, width = source.card.preprocessing.size or (height, width)
    network = copy.deepcopy(source.segmenter().network).to("meta")
    picture = torch.empty((1, source.card.network.in_channels, height, width), device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(picture)
    return int(counter.get_total_flops())


def measure_peak(hardware: Hardware) -> dict[str, float | None]:
    """Operations a second that the device reaches, by number format; None where it cannot."""
    import torch

    device = hardware.accelerator
    peaks: dict[str, float | None] = {"32": None, "bf16": None, "int8": None}
    formats = {"32": torch.float32} | ({"bf16": torch.bfloat16} if hardware.bf16 else {})
    edge = 1024 if device == "cpu" else 8192
    for name, kind in formats.items():
        a, b = (torch.ones((edge, edge), dtype=kind, device=device) for _ in range(2))
        conv = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False, dtype=kind, device=device)
        x = torch.ones((1 if device == "cpu" else 64, 256, 64, 64), dtype=kind, device=device)
        x = x.to(memory_format=torch.channels_last)
        conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.inference_mode():
            product = 2 * edge**3 / _seconds(partial(torch.matmul, a, b), device)
            convolution = 2 * 9 * 256 * x.numel() / _seconds(partial(conv, x), device)
        peaks[name] = max(product, convolution)
    if device == "cpu":
        a, b = (torch.ones((edge, edge), dtype=torch.int8) for _ in range(2))
        peaks["int8"] = 2 * edge**3 / _seconds(partial(torch._int_mm, a, b), device)
    return peaks


def training_step(source: Source, *, batch: int = 4, edge: int = 256) -> dict[str, Any]:
    """Time a training step of this network on random pictures.

    Args:
        source: the model.
        batch: pictures in it.
        edge: of the square pictures, in pixels.
    """
    import torch

    from contorno.models import build_network

    hardware, network = source.hardware, build_network(source.card.network)
    network = network.to(hardware.accelerator)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    shape = (batch, source.card.network.in_channels, edge, edge)
    images = torch.rand(shape, device=hardware.accelerator)
    images = images.to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(hardware.accelerator, torch.bfloat16, enabled=hardware.bf16):
            output = network(images)
        output.float().square().mean().backward()
        optimizer.step()

    seconds = _seconds(step, hardware.accelerator, least=3)
    return {
        "batch": batch,
        "edge": edge,
        "ms": 1e3 * seconds,
        "images_per_second": batch / seconds,
    }


def _seconds(work: Callable[[], Any], device: str, *, least: int = 5) -> float:
    """Shortest time of several, after one that sets things up."""
    import torch

    times = []
    for _ in range(least + 1):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])
