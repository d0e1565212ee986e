"""Turn results.json into one self-contained HTML page that opens without a network.

Reads the figures that `evaluate` wrote, the pictures they speak of and, when a run folder is
given, its log and configuration; fills `report.html.j2`. Computes no score:
what a figure means and how it was counted is decided in `metrics` and only repeated here.

File names and configuration values come from outside and may hold markup: everything passes
Jinja's escaping, and the page's content policy admits no script but the one in the template.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from contorno.charts import curves, every, expected, histogram, reliability
from contorno.errors import InputError, Problem
from contorno.files import write_bytes
from contorno.images import ImageError, RawMask, read_channels, read_raw_mask
from contorno.pictures import figure, jpeg, outline, policy_hash, shrink, visible

T = TypeVar("T")
LONG_SIDE = 640  # pixels: nine pictures of this size keep the page near 1 MB
KEYS = (
    "classes", "contorno", "images", "labels", "model", "per_image", "pooled", "problems", "rules"
)  # fmt: skip
OUTLINE = 300_000  # characters: an outline with more is a texture, which browsers draw slowly
LISTED = 2_000  # images in the table, the worst: browsers sort many more for half a minute
SUSPECTS = 9  # masks that may be wrong
TOLD = 200  # problems: the rest stands in results.json
SHOWN = 8  # classes whose Dice stands below a picture


def write_report(results: Path, *, out: Path | None = None, run: Path | None = None) -> Path:
    """Write the report of one evaluation as a single HTML file.

    Args:
        results: the results.json that `evaluate` wrote; its relative paths count from its folder.
        out: the page to write; report.html beside `results` if not given.
        run: the run folder whose log.jsonl and config.toml are shown too.

    Returns:
        The path of the page.

    Raises:
        InputError: results.json or config.toml is missing, or one of the three files is not what
            its name says. A picture or a log.jsonl that has vanished since is no error: a note
            stands in its place.
        StorageError: the page cannot be written.
    """
    out = results.with_name("report.html") if out is None else out
    scored = _read(results, _parse_results)
    images = sorted(scored["images"], key=lambda image: (image["dice"], image["name"]))
    dice = [image["dice"] for image in images]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": figure, "policy_hash": policy_hash}
    template = files("contorno").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        results=scored,
        images=images,
        listed=images[:LISTED],
        every=every(images),
        told=TOLD,
        quartiles=np.quantile(dice, (0, 0.25, 0.5, 0.75, 1)).tolist() if dice else None,
        histogram=histogram(dice, scored["per_image"]["dice"]["mean"]) if dice else None,
        groups=[
            (title, [_case(image, results.parent, scored) for image in chosen])
            for title, chosen in _groups(images)
        ],
        drawn=len({*(scored.get("groups") or {}).values()}),
        suspects=_suspects(scored, results.parent),
        reliability=reliability(scored.get("calibration")),
        expected=expected(images),
        threshold=_threshold_words(scored),
        training=None if run is None else _training(run),
        config=None if run is None else _read(run / "config.toml", _parse_config),
    )
    # A name that is no valid UTF-8 arrives as lone surrogates, which cannot be encoded.
    write_bytes(out, page.encode("utf-8", "backslashreplace"))
    return out


# Reading ---------------------------------------------------------------------------------------


def _read(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # JSON, TOML and UTF-8 errors are all ValueErrors
        problem = Problem(
            path=str(path),
            what=str(getattr(error, "strerror", None) or error),
            expected=f"a {path.name} as contorno writes it",
            fix="evaluate again" if path.suffix == ".json" else "give the folder of a training run",
        )
        raise InputError("the report cannot be written", [problem]) from error


def _parse_results(text: str) -> dict[str, Any]:
    results = json.loads(text)
    missing = [key for key in KEYS if not isinstance(results, dict) or key not in results]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    return dict(results)


def _parse_log(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The last line of each epoch, in order, and a note for each line that is not JSON."""
    epochs: dict[int, dict[str, Any]] = {}
    notes = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            epochs[int(entry["epoch"])] = entry  # a resumed run may log an epoch a second time
        except (ValueError, KeyError, TypeError):
            notes.append(f"Line {number} of log.jsonl cannot be read and is left out.")
    return [epochs[epoch] for epoch in sorted(epochs)], notes


def _parse_config(text: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """(section, [(name, value, reason)]) in the order of the file."""
    config = tomllib.loads(text)
    reasons = config.pop("reasons", {})
    tables = {name: t if isinstance(t, dict) else {"": t} for name, t in config.items()}
    return [
        (section, [(n, _plain(v), reasons.get(f"{section}.{n}", "")) for n, v in table.items()])
        for section, table in tables.items()
    ]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


# Pictures --------------------------------------------------------------------------------------


def _groups(ordered: Sequence[T]) -> list[tuple[str, Sequence[T]]]:
    """Up to three of the worst, of the middle and of the best, none of them twice.

    With fewer than nine images they are shared out: 5 gives 2 worst, 1 middle, 2 best.
    """
    count = len(ordered)
    worst, best, middle = (min(3, (count + extra) // 3) for extra in (2, 1, 0))
    start = worst + (count - worst - best - middle) // 2
    groups = [
        ("Worst", ordered[:worst]),
        ("Middle", ordered[start : start + middle]),
        ("Best", ordered[count - best :][::-1]),
    ]
    return [(title, chosen) for title, chosen in groups if chosen]


def _suspects(results: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The masks that look most wrong, each with its picture."""
    rows = {image["name"]: image for image in results["images"]}
    listed = results.get("suspects", {}).get("images", [])
    return [
        {"suspect": one} | _case(rows[one["image"]], folder, results) for one in listed[:SUSPECTS]
    ]


def _case(image: Mapping[str, Any], folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """One picture with the outlines of its truth and its prediction, ready for the template."""
    notes: list[str] = []
    case = {"image": image, "notes": notes, "picture": None, "truth": "", "prediction": ""}
    files = [folder / name for name in image.get("images", [image["image"]])]  # may be absolute
    pages, upright = results.get("pages", False), image.get("turned", False)
    try:
        pixels = read_channels(files, pages=pages, upright=upright).array
    except ImageError as error:
        notes.append(f"The picture cannot be shown: {error.problem.what}.")
        return case
    height, width = pixels.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))  # (h, w)
    rgb, note = visible(pixels)
    case |= {"picture": jpeg(rgb, size), "height": size[0], "width": size[1]}
    notes += [note] if note else []
    for layer in ("truth", "prediction"):
        try:
            raw = [read_raw_mask(folder / name) for name in image[layer]]
        except ImageError as error:
            notes.append(f"The {layer} cannot be shown: {error.problem.what}.")
            continue
        odd = next((m.values.shape for m in raw if m.values.shape != (height, width)), None)
        if odd:
            notes.append(f"The {layer} is {odd[1]} x {odd[0]} pixels: not drawn.")
            continue
        masks = _masks(raw, results["labels"])
        drawn = "".join(outline(shrink(mask, size)) for mask in masks)
        if len(drawn) > OUTLINE:
            notes.append(f"The {layer} is too fine to be drawn.")
            continue
        case[layer] = drawn
    if worst := _class_words(image.get("classes", {})):
        notes.append(worst)
    return case


def _masks(raw: Sequence[RawMask], labels: Mapping[str, Any]) -> Iterator[NDArray[np.bool_]]:
    """Where each class is, boolean (H, W), one after the other: a large picture has many."""
    files = raw if labels["multilabel"] else [raw[0]] * len(labels["classes"])
    for mask, one in zip(files, labels["classes"], strict=True):
        value = one["value"]
        if one["kind"] == "colour" and mask.kind == "grey":
            # A coloured mask without any colour in it is read as grey: white is 255, not 0xffffff.
            level, rest = divmod(value, 0x010101)
            value = -1 if rest else level
        yield mask.values == value


def _class_words(classes: Mapping[str, Mapping[str, Any]]) -> str:
    """Dice of the classes that are in the truth or the prediction of an image, worst first."""
    there = {n: c["dice"] for n, c in classes.items() if c["tp"] + c["fp"] + c["fn"]}
    ordered = sorted(there.items(), key=lambda item: item[1])
    words = [f"{name} {figure(dice)}" for name, dice in ordered[:SHOWN]]
    more = len(ordered) - SHOWN
    if more > 0:
        words.append(f"{more} more")
    return f"Dice of its classes: {', '.join(words)}" if words else ""


def _threshold_words(results: Mapping[str, Any]) -> str:
    """How probabilities became masks, in a sentence or several."""
    names = [one["name"] for one in results["labels"]["classes"]]
    threshold, of = results["threshold"], "foreground" if len(names) == 1 else "of a class"
    if threshold is None:
        words = "A pixel is of the class with the largest probability."
    elif isinstance(threshold, list):
        each = (f"{name} {one:g}" for name, one in zip(names, threshold, strict=True))
        words = f"A pixel is of a class from its probability on: {', '.join(each)}."
    else:
        words = f"A pixel is {of} from a probability of {threshold:g} on."
    tuned = results.get("tuned", {})
    if (each := results["model"].get("temperature", 1)) != 1:  # of folds: of theirs, once
        words = f"The logits of each model are divided by {each:g} before the mean. {words}"
    elif tuned.get("temperature", 1) != 1:
        words = f"Logits are divided by {tuned['temperature']:g}. {words}"
    for field, does in (
        ("smallest", "Objects of fewer pixels are removed"),
        ("holes", "Holes of up to so many pixels are filled"),
    ):
        values = tuned.get(field, [0])
        if any(values):
            several = len(values) > 1
            each = (f"{n} {v}" for n, v in zip(names, values, strict=False))
            words += f" {does}: {', '.join(each) if several else values[0]}."
    return words


def _training(run: Path) -> dict[str, Any]:
    log = run / "log.jsonl"  # a model may have been copied with its config.toml alone
    epochs, notes = _read(log, _parse_log) if log.exists() else ([], [f"There is no {log}."])
    best = next((e for e in reversed(epochs) if e.get("best")), None)
    losses = {"training": "loss", "validation, squared error": "validation_loss"}
    charts = [
        curves("Loss", epochs, losses, best),
        curves("Validation Dice", epochs, {"": "validation_dice"}, best),
        curves("Learning rate", epochs, {"": "learning_rate"}, None, height=1.4),
    ]
    return {"charts": [c for c in charts if c], "best": best, "epochs": epochs, "notes": notes}
