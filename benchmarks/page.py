"""Make docs/benchmarks.md and README's table of figures from benchmarks/results/*.json.

python benchmarks/page.py
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from statistics import median
from typing import Any

from ablation_page import (
    ablation,
    ablation_before,
    ablation_steps,
    averages,
    kept_epoch,
    light,
)
from accuracy_page import accuracy, accuracy_float32, summary

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BAD = ("silently wrong", "crash", "hang")


def machine() -> str:
    """Processor, cores and versions, for the tables."""
    import torch

    from contorno import __version__
    from contorno.hardware import choose, cores

    name = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return (
        f"{name}, {cores()} cores; {choose().reason}; Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, contorno {__version__}"
    )


def main() -> None:
    parts = [
        "# Benchmarks\n\nEvery figure here is printed by a script in `benchmarks/` and stands "
        "in `benchmarks/results/`; this page is made by `python benchmarks/page.py`. Machines "
        "are noisy: seconds are of one run on a shared machine.\n"
    ]
    for name, section in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            parts.append(section(json.loads(path.read_text())))
    parts.append(
        "## On a GPU\n\nNot measured: no GPU was at hand. The CUDA path is the same code "
        "with another device name.\n"
    )
    (ROOT / "docs/benchmarks.md").write_text("\n".join(parts))
    readme, cells = ROOT / "README.md", json.loads((RESULTS / "accuracy.json").read_text())
    before, begin, rest = readme.read_text().partition("<!-- five minutes -->\n")
    _, end, after = rest.partition("<!-- end -->")
    readme.write_text(before + begin + summary(cells, "5m", "1m", "20m") + "\n" + end + after)


def demo(results: dict[str, Any]) -> str:
    dice = results["per_image"]["dice"]
    return f"""## The demo

`contorno demo` (what `make demo` runs): {results["seconds"]} s in all on {results["machine"]}.

| held-out images | Otsu's threshold, mean Dice | contorno, mean Dice (95% interval) |
|---|---|---|
| {len(results["images"])} | {results["otsu_dice"]:.3f} | {interval(dice, "mean")} |
"""


def classic(results: dict[str, Any]) -> str:
    rows = [
        "| notebook | seconds | first line | last line | lowest loss | best validation Dice |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in results["runs"].items():
        rows.append(
            f"| {name} | {run['seconds']} | `{run['first_line']}` | `{run['last_line']}` | "
            f"{min(run['loss']):.2e} | {max(run['validation_dice']):.4f} |"
        )
    return f"""## The reference notebooks, 100 epochs on the demo set

`python benchmarks/classic.py --out RUNS --size {results["size"]} --widths {results["widths"]}`:
`--recipe classic` with `--up transposed` (R1) and `--up bilinear` (R2), narrower and smaller than
the notebooks' 64 to 1024 channels at 512 x 512, which would take this machine many hours.
Machine: {results["machine"]}.

{chr(10).join(rows)}

![Training loss of R1 and R2 by epoch](images/classic.svg)
"""


def check(results: dict[str, Any]) -> str:
    rows = ["| round | bare loop, processes | bare loop, threads | check | peak memory |"]
    rows.append("|---|---|---|---|---|")
    for number, row in enumerate(results["rounds"], 1):
        speeds = [
            f"{results['pairs'] / row[name]:.0f} pairs/s"
            for name in ("bare_processes", "bare_threads", "check")
        ]
        rows.append(f"| {number} | {' | '.join(speeds)} | {row['peak_bytes'] / 1e6:.0f} MB |")
    ratio = results["ratio"]
    return f"""## `contorno check` beside a loop that only decodes

`python benchmarks/check.py FOLDER --pairs {results["pairs"]}`: {results["pairs"]:,} pairs of 512 x
512 RGB PNG and 8-bit mask ({results["bytes"] / 1e9:.1f} GB of files), {results["workers"]} workers.
The bare loop reads every file with Pillow into an array and does nothing else; check is the whole
command, start included. Its speed is {ratio["median"]:.2f} of the faster bare loop's (median of
{len(results["rounds"])} rounds, {ratio["low"]:.2f} to {ratio["high"]:.2f}); it decodes
PNG with libpng, which is faster than Pillow, so this is no cost-free check. Machine:
{results["machine"]}. {results.get("note", "")}

{chr(10).join(rows)}
"""


def depths(results: dict[str, Any]) -> str:
    rows = [
        f"| {run['epochs']} | {run['seed']} | {run['version']} | {run['dice']:.4f} |"
        for run in sorted(results["runs"], key=lambda run: (-run["epochs"], run["seed"]))
    ]
    one = results["runs"][-1]
    return f"""## The same pictures in other types

`python benchmarks/depths.py DATA/dsb2018_stage1 --out RUNS --epochs EPOCHS --images
{one["train_images"]} --widths {one["widths"]}`: the pictures
as 8-bit PNG, as 16-bit TIFF (times 257), as float TIFF (0 to 1) and with two of the channels
repeated (5 channels), trained with the same seed and steps, scored on the
{one["test_images"]} test images. Machine: {one["machine"]}.

| epochs | seed | version | test Dice |
|---|---|---|---|
{chr(10).join(rows)}
"""


def odd_inputs(results: dict[str, Any]) -> str:
    tools = [t for t in results["tools"] if t in results["versions"]]
    cases = [c for c in results["cases"].values() if c["group"] != "control"]
    kinds = ("right", "caught", "left out", "silently wrong", "crash", "hang", "n/a")
    found = {
        tool: [c["outcomes"].get(tool, {}).get("outcome", "-") for c in cases] for tool in tools
    }
    head = f" | {' | '.join(tools)} |\n" + "|---" * (len(tools) + 1) + "|\n"
    sums = "\n".join(
        f"| {kind} | " + " | ".join(str(found[tool].count(kind)) for tool in tools) + " |"
        for kind in kinds
    )
    rows = "\n".join(
        f"| {case['title']} | "
        + " | ".join(f"**{o}**" if o in BAD else o for o in (found[tool][index] for tool in tools))
        + " |"
        for index, case in enumerate(cases)
    )
    used = "\n".join(
        f"- {results['tools'][tool]}"
        + "".join(f"; {name} {version}" for name, version in results["versions"][tool].items())
        for tool in tools
    )
    return f"""## Odd inputs

`python benchmarks/odd_inputs.py --out SETS --peers PYTHON --milesial CHECKOUT`: sets of eight pairs
that are good but for one thing, read by each tool as its documentation says, and compared with what
was drawn. One rule for all: *right*, every pair is read as meant; *caught*, an error or a warning
names the file or the problem; *left out*, the odd pair is dropped without a word; *silently wrong*,
it goes on with an image or a mask that is false; *crash*, an error that names neither; *hang*, no
end within minutes; *n/a*, the case cannot be in the tool's layout. The messages and values behind
every cell stand in `benchmarks/results/odd_inputs.json`.

The inputs were chosen by contorno's authors, and neither MONAI nor a notebook claims to check a
set: read a column for what gets through, not as a rank. nnU-Net sees files only after they were
copied to its names, so what the copying refuses or puts right counts for it.

{used}

| of {len(cases)} inputs{head}{sums}

| input{head}{rows}
"""


def speed(results: dict[str, Any]) -> str:
    """A table for each size, model and batch."""
    tables = [
        speed_table(place, model, batch, table)
        for place, models in results.items()
        if place != "layers"
        for model, batches in models.items()
        for batch, table in sorted(batches.items(), key=lambda item: int(item[0]))
    ]
    return f"""## Speed of inference

`python benchmarks/speed.py --model R1=FILE --model R2=FILE --peers PYTHON`: one call after the
other in rounds A B C, A B C, each arm a process of its own that sleeps between its turns. R1 and R2
are the reference notebooks at 64 to 1024 channels; their copies, the other runtimes and contorno
have the same weights.

- Ratio: the notebook's float32 time to the arm's in the same round, median (lowest to highest).
- GFLOP: for one image, of the module as its authors wrote it; for every arm of the notebook's
  weights, the notebook's, so that an engine that saves arithmetic shows a larger share of the peak.
- Peak: the fastest of a large matrix product and two convolutions in that number format, in the
  same rounds.
- Equal: pixels whose mask at 0.5 is that of the notebook in float32, on drawn pictures of cells;
  Dice with that mask.
- What is timed: the notebook's copies and the peers get normalised float32 tensors and give raw
  output; contorno's engines get uint8 pictures and give probabilities.
- The other tools' networks have random weights and are not R1 or R2: compare times and GFLOP.
- Memory: the most that the process held, conversion and quantisation included.

{chr(10).join(tables)}
{speed_layers(results.get("layers", {}))}"""


def speed_table(place: str, model: str, batch: str, table: dict[str, Any]) -> str:
    rows = [
        "| arm | what it is | format | ms | ratio | images/s | GFLOP | of peak | equal | Dice "
        "| first call, s | memory, MB |",
        "|---" * 12 + "|",
    ]
    for name, row in table["arms"].items():
        start = f"| {name} | {row['what']} | {row['format']} |"
        if "error" in row:
            reason = "does not import here" if "ModuleNotFound" in row["error"] else "did not run"
            rows.append(f"{start} {reason}: {row['error']} |" + " |" * 8)
            continue
        ratio, share = row["ratio"], row["share_of_peak"]
        same = (f"{100 * row['equal']:.2f}%", f"{row['dice']:.4f}") if "equal" in row else ("", "")
        rows.append(
            f"{start} {1000 * row['seconds']:.0f} | {ratio['median']:.2f} ({ratio['low']:.2f} to "
            f"{ratio['high']:.2f}) | {row['images_per_second']:.2f} | {row['gflop']:.0f} | "
            f"{'' if share is None else format(share, '.0%')} | {same[0]} | {same[1]} | "
            f"{row['first']:.1f} | {row['peak_bytes'] / 1e6:.0f} |"
        )
    rows.append(
        "| any | on a GPU: `--device cuda`, written but never run | | not measured" + " |" * 9
    )
    base = table["arms"]["notebook"]["seconds"]
    needed = int(batch) * table["arms"]["notebook"]["gflop"]
    ceilings = ", ".join(
        f"{base * rate / needed:.1f} in {kind}" for kind, rate in table["peaks"].items()
    )
    peaks = ", ".join(f"{kind} {rate:.0f}" for kind, rate in table["peaks"].items())
    weights = "random weights" if table["random_weights"] else "trained weights"
    return f"""### {model}, {place}, batch {batch}

{weights}; {table["rounds"]} rounds; {table["threads"]} threads. Peaks in GFLOP/s: {peaks}. The
notebook's own arithmetic at these peaks would give the ratios {ceilings}: no engine that does as
much can pass them. Machine: {table["machine"]}.

{chr(10).join(rows)}
"""


def folder(results: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {number} | {one['engine']:.2f} | {one['folder']:.2f} |"
        for number, one in enumerate(results["rounds"], 1)
    )
    ratio = results["ratio"]
    return f"""## A folder of pictures

`python benchmarks/folder.py FOLDER --pictures {results["pictures"]}`: 512 x 512 RGB PNG through
the engine alone, already decoded, and by `contorno predict` from file to written mask, in turn.
{results["engine"]}; {results["network"]}. The folder's speed is {ratio["median"]:.2f} of the
engine's (median, {ratio["low"]:.2f} to {ratio["high"]:.2f}). Machine: {results["machine"]}.

| round | engine alone, images/s | folder, images/s |
|---|---|---|
{rows}
"""


def cold(results: dict[str, Any]) -> str:
    rows = []
    for model, arms in results["models"].items():
        for arm, row in arms.items():
            steps = "; ".join(f"{step} {seconds:.2f}" for step, seconds in row["steps"].items())
            rows.append(
                f"| {model} | {arm} | {row['seconds']:.2f} ({row['low']:.2f} to {row['high']:.2f}) "
                f"| {steps} |"
            )
    return f"""## One picture, from the command to the mask

`python benchmarks/cold.py FOLDER`: the whole command `contorno predict` for one 512 x 512 picture,
seconds, median (lowest to highest) of {results["rounds"]} rounds, and where they go, measured in
processes of their own. "Default" has widths 32 to 512, "R2" those of the notebook. Machine:
{results["machine"]}.

| model | engine | seconds | of which |
|---|---|---|---|
{chr(10).join(rows)}
"""


def speed_layers(models: dict[str, Any]) -> str:
    """Where one inference of the OpenVINO engine goes, by the height of a layer's output."""
    parts = []
    for model, batches in models.items():
        for batch, found in batches.items():
            peak = found["peak_gflops"]
            rows = [
                "| output height | convolutions, ms | at the peak, ms | the rest, ms "
                "| GFLOP | moved, MB | that at copy speed, ms |",
                "|---" * 7 + "|",
            ]
            for height, row in found["levels"].items():
                if row.get("gflop"):
                    rows.append(
                        f"| {height} | {row['conv_ms']:.1f} | {1000 * row['gflop'] / peak:.1f} | "
                        f"{row['other_ms']:.1f} | {row['gflop']:.1f} | {row['megabytes']:.0f} | "
                        f"{row['megabytes'] / found['copy_gb_per_s']:.1f} |"
                    )
            parts.append(
                f"{model}, batch {batch}: {1000 * found['seconds']:.0f} ms in all; peak "
                f"{peak:.0f} GFLOP/s; copying {found['copy_gb_per_s']:.0f} GB/s. Machine: "
                f"{found['machine']}.\n\n" + "\n".join(rows) + "\n"
            )
    return f"""### Where one inference goes

`python benchmarks/speed.py --layers ...`: OpenVINO's counter of every layer that
`engine="openvino"` runs. Moved: inputs, weights and outputs of every layer once, as if no cache
held any. What bounds it: [speed](speed.md).

{chr(10).join(parts)}"""


def label_errors(results: dict[str, Any]) -> str:
    rows = []
    for run in results["runs"]:
        kinds = ", ".join(f"{kind} {a} of {b}" for kind, (a, b) in run["kinds"].items())
        rows.append(
            f"| {run['set']} | {run['images']} | {run['length']}, {run['folds']} folds | "
            f"{run['spoilt']} | {run['found']} ({run['found'] / run['spoilt']:.0%}) | {kinds} | "
            f"{run['out_of_fold_dice']:.3f} |"
        )
    last = results["runs"][-1]
    return f"""## Masks that were spoilt on purpose

`python benchmarks/label_errors.py DATA/SET --out SCRATCH`: a tenth of the masks of a set's train
list are shifted by about an object's radius, eroded, robbed of half of their objects or swapped
with another image's; then `contorno train --folds` is run on them. Found: among the first 20% of
suspects.csv, where chance finds 20%. Out-of-fold Dice is with the masks as they were given, spoilt
ones too. The recipe changed between the rows, of which the last is the newest. Machine:
{last["machine"]}.

| set | images | training | spoilt | found | of which | out-of-fold Dice |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def training_step(results: dict[str, Any]) -> str:
    rows = [
        "| network, arm | seconds | contorno is faster by | share of bfloat16 peak | peak memory |",
        "|---|---|---|---|---|",
    ]
    for name, found in results["networks"].items():
        for arm in results["arms"]:
            seconds = median(row[arm]["seconds"] for row in found["rounds"])
            ratio, share = found["ratios"].get(arm), found["share_of_peak"].get(arm)
            faster = "-"
            if ratio is not None:
                faster = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
            part = "-" if share is None else f"{share:.0%}"
            memory = found["memory"][arm]
            rows.append(
                f"| {name}, {arm} | {seconds:.1f} | {faster} | {part} | {memory / 1e9:.2f} GB, "
                f"{memory / found['memory']['notebook']:.0%} |"
            )
    arms = "\n".join(f"- {arm}: {words}" for arm, words in results["arms"].items())
    rounds = len(next(iter(results["networks"].values()))["rounds"])
    return f"""## A training step on a CPU

`python benchmarks/training_step.py --out SCRATCH --size {results["size"]} --batch
{results["batch"]} --rounds {rounds}`: forward, backward and update of {results["batch"]} pictures
of {results["size"]} x {results["size"]}, widths 64 to 1024. One process an arm, a step of each in
turn; medians of {rounds} rounds after one that does not count, with the smallest and largest ratio.
The share of the peak is that of the plain network's arithmetic in the time taken, against a large
bfloat16 convolution timed after each step: with less arithmetic for the same gradients it may pass
100%. Memory is the largest resident size, less what libraries took before.
Machine: {results["machine"]}.

{arms}

{chr(10).join(rows)}
"""


def interval(figure: dict[str, Any], key: str) -> str:
    digits = 1 if (figure[key] or 0) > 2 else 3
    return (
        (f"{figure[key]:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})")
        if figure[key] is not None
        else "-"
    )


SECTIONS = {
    "demo": demo,
    "accuracy": accuracy,
    "accuracy_float32": accuracy_float32,
    "ablation": ablation,
    "averages": averages,
    "ablation_steps": ablation_steps,
    "light": light,
    "ablation_before": ablation_before,
    "kept": kept_epoch,
    "classic": classic,
    "check": check,
    "depths": depths,
    "odd_inputs": odd_inputs,
    "speed": speed,
    "folder": folder,
    "cold": cold,
    "training_step": training_step,
    "label_errors": label_errors,
}

if __name__ == "__main__":
    main()
