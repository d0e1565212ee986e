"""One training step on a CPU: a notebook's, PyTorch at its best without contorno, and contorno's.

    python benchmarks/training_step.py --out SCRATCH [--size 512] [--batch 4] [--rounds 3]

Writes benchmarks/results/training_step.json; then run benchmarks/page.py. Each arm is a process of
its own that does a step when it is told to, in turn with the others; the first step of each does
not count. Memory is the process's largest resident size after its steps, less what it had before
the network was made (libraries loaded, one small picture trained).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from page import RESULTS, machine

ARMS = {
    "notebook": "float32, NCHW, Adam, plain modules",
    "autocast": "bfloat16 autocast, channels_last, fused Adam, plain modules",
    "contorno": "contorno's Trainer.step, recipe classic",
}
NETWORKS = {"R1": "transposed", "R2": "bilinear"}
WIDTHS = (64, 128, 256, 512, 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and runs")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--arm", choices=list(ARMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        serve(options)
        return
    path = RESULTS / "training_step.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    asked = {"size": options.size, "batch": options.batch}
    same = all(old.get(key) == value for key, value in asked.items())
    networks = old.get("networks", {}) if same else {}
    for name in options.networks:
        networks[name] = measure(name, options)
        print(name, json.dumps(networks[name]["ratios"]), flush=True)
    results = {"machine": machine(), **asked, "arms": ARMS, "networks": networks}
    path.write_text(json.dumps(results, indent=1) + "\n")


def measure(network: str, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of one step of each arm, one after the other."""
    arguments = ["--out", str(options.out), "--size", str(options.size), "--networks", network]
    processes = {
        arm: subprocess.Popen(
            [sys.executable, __file__, *arguments, "--batch", str(options.batch), "--arm", arm],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"GOMP_SPINCOUNT": "1000"},  # as contorno's command line has it
        )
        for arm in ARMS
    }
    rounds = []
    for number in range(options.rounds + 1):
        row = {arm: ask(process) for arm, process in processes.items()}
        print(network, number, row, flush=True)
        if number:
            rounds.append(row)
    for process in processes.values():
        process.communicate("")
    flops = arithmetic(network, options)
    last = rounds[-1]
    return {
        "rounds": rounds,
        "flops": flops,
        "ratios": {arm: ratio(rounds, arm, "seconds") for arm in ARMS if arm != "contorno"},
        "share_of_peak": {
            arm: median(flops / row[arm]["seconds"] / row[arm]["peak"] for row in rounds)
            for arm in ARMS
            if arm != "notebook"  # its peak is another: float32
        },
        "memory": {arm: last[arm]["memory"] for arm in ARMS},
    }


def ratio(rounds: list[dict[str, Any]], arm: str, key: str) -> dict[str, float]:
    """How many times longer an arm took than contorno, by round."""
    values = [row[arm][key] / row["contorno"][key] for row in rounds]
    return {"median": median(values), "low": min(values), "high": max(values)}


def ask(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    answer: dict[str, float] = json.loads(process.stdout.readline())
    return answer


def serve(options: argparse.Namespace) -> None:
    """A step for every line that comes."""
    up = NETWORKS[options.networks[0]]
    make = trainer if options.arm == "contorno" else notebook
    make(up, options, size=32, batch=1, widths=(4, 8, 16))()  # what libraries take at first
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = make(up, options, size=options.size, batch=options.batch, widths=WIDTHS)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        seconds = time.perf_counter() - began
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024
        print(json.dumps({"seconds": seconds, "peak": peak(), "memory": memory}), flush=True)


def notebook(
    up: str, options: argparse.Namespace, *, size: int, batch: int, widths: tuple[int, ...]
) -> Callable[[], Any]:
    """Steps of plain modules."""
    import torch

    fast = options.arm == "autocast"
    torch.manual_seed(0)
    network = plain(up, widths).train()
    images, target = torch.rand(batch, 3, size, size), torch.rand(batch, 1, size, size).round()
    if fast:
        network = network.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=1e-3, weight_decay=1e-5, fused=fast or None
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            output = network(images)
        torch.nn.functional.mse_loss(output.float(), target).backward()
        optimizer.step()

    return step


def trainer(
    up: str, options: argparse.Namespace, *, size: int, batch: int, widths: tuple[int, ...]
) -> Callable[[], Any]:
    """Steps of contorno, on pictures that are decoded already."""
    from PIL import Image

    from contorno.config import DataConfig
    from contorno.data.dataset import load
    from contorno.data.demo import draw
    from contorno.data.pairs import find_pairs
    from contorno.fingerprint import fingerprint
    from contorno.hardware import choose
    from contorno.recipes import resolve
    from contorno.trainer import Trainer

    root = options.out / f"{size}"
    for index in range(batch):
        for kind, array in zip(("images", "masks"), draw(index, size=size), strict=True):
            (root / kind).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(array)
            picture = picture.convert("RGB") if kind == "images" else picture
            picture.save(root / kind / f"p{index}.png")
    data, _ = load(find_pairs(root / "images", root / "masks").pairs, workers=0)
    wishes = {"up": up, "widths": widths, "size": (size, size), "batch_size": batch}
    names = DataConfig(images=str(root / "images"), masks=str(root / "masks"))
    hardware = choose(device="cpu", precision="bf16")
    config = resolve("classic", names, fingerprint(data), hardware, wishes)
    run = Trainer(config, data, data, hardware, root)
    first = next(iter(run.sampler.batches(0, start=0, workers=0)))
    return lambda: run.step(first)


def peak() -> float:
    """FLOP/s of a large bfloat16 convolution, the best of five."""
    import torch

    x = torch.randn(1, 256, 128, 128).bfloat16().to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3).bfloat16().to(memory_format=torch.channels_last)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        torch.conv2d(x, weight, padding=1)
        times.append(time.perf_counter() - began)
    return 2 * 128 * 128 * 256 * 256 * 9 / min(times)


def arithmetic(network: str, options: argparse.Namespace) -> int:
    """Floating-point operations of the plain network's step, by PyTorch's own count."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = plain(NETWORKS[network], WIDTHS)
        model(torch.rand(options.batch, 3, options.size, options.size)).sum().backward()
    return int(counter.get_total_flops())


def plain(up: str, widths: tuple[int, ...]) -> Any:
    """The notebooks' network, in PyTorch's own layers alone."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    def block(before: int, after: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels in (before, after):
            layers.append(nn.Conv2d(channels, after, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList(map(block, (3, *widths), widths))
            pairs = list(pairwise(widths))[::-1]
            grown = [low if up == "transposed" else high for low, high in pairs]
            self.grow = nn.ModuleList(nn.ConvTranspose2d(h, w, 2, stride=2) for w, h in pairs)
            self.up = nn.ModuleList(block(w + g, w) for (w, _), g in zip(pairs, grown, strict=True))
            if up == "bilinear":
                self.grow = nn.ModuleList(nn.Identity() for _ in pairs)
            self.out = nn.Conv2d(widths[0], 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            skips: list[Tensor] = []
            for index, layers in enumerate(self.down):
                x = layers(F.max_pool2d(x, 2) if index else x)
                skips.append(x)
            skips.pop()
            for grow, layers in zip(self.grow, self.up, strict=True):
                skip = skips.pop()
                x = grow(x)
                if up == "bilinear":
                    size = skip.shape[2:]
                    x = F.interpolate(x, size, mode="bilinear", align_corners=True)
                x = layers(torch.cat([x, skip], dim=1))
            return self.out(x) if up == "transposed" else torch.sigmoid(self.out(x))

    return Plain()


if __name__ == "__main__":
    main()
