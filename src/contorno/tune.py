"""Choices made on validation images: temperature, threshold, smallest object, largest filled hole.

Sees only an engine's `probabilities`. Each choice is made with those before it applied, in the
order of `finish`, and kept only if images on which it was not made confirm it (`RULE`).
Averaging over mirrored and turned pictures is measured where it is cheap, and left to the user.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from contorno.calibration import relevant
from contorno.candidates import (
    THRESHOLDS,
    Seen,
    at_thresholds,
    changed,
    counts_of,
    measured,
    sizes_of,
    summed,
)
from contorno.card import Gain, ModelCard, Tuned
from contorno.data.dataset import Dataset
from contorno.data.labels import Labels, classify
from contorno.engines import Engine, whole_image
from contorno.engines.averaging import Averaged
from contorno.finish import draw, put, temper, tempered
from contorno.metrics import mean_dice
from contorno.progress import bar

Array = NDArray[Any]
Part = tuple[Engine, Dataset]  # validation pairs, and the engine of a model to be asked of them
AVERAGING = "tta"  # a choice that is measured, and left to the user
LEAST = 6  # images: two halves of three; with fewer, one image decides everything
MOST = 64  # images
VALUES = 2**26  # probabilities that are kept: 268 MB
MARGIN = 0.0005  # of mean Dice: less is noise
_FALL, _LEAST_FALL = 0.01, 1e-4  # of the negative log-likelihood: relative, and in nats
_Item = tuple[Engine, Dataset, int]  # what is asked of which image, by its place in its set
_SAMPLE = 20_000  # pixels of an image that the temperature is fitted to
_HOTTEST = 4.0  # and 1/4 the coldest
RULE = (
    "The validation images are parted into two halves. A choice is kept if what is best on either "
    f"half raises the mean Dice per image of the other by at least {MARGIN}, and if what is best "
    "on all raises that of all by as much; of equally good values the nearest to none is taken. "
    f"The temperature, which moves no outline, is kept if it lowers the negative log-likelihood in "
    f"the same way by at least {_FALL:.0%} and {_LEAST_FALL} nats a pixel."
)


def tune(
    engine: Engine, card: ModelCard, dataset: Dataset, *, seed: int = 0, tta_pixels: int = 0
) -> Tuned:
    """Choose what the card's `Tuned` holds.

    Args:
        engine, card: the model; what was tuned in the card is not looked at.
        dataset: validation pairs. Of more than `MOST`, or `VALUES` probabilities, a random part.
        seed: of the halves, and of what is drawn.
        tta_pixels: averaging is measured on as many images as have so many pixels together, if
            these are `LEAST` or more.

    Returns:
        The choices, those that were not kept at their defaults, with the gain of each.
    """
    return tune_parts([(engine, dataset)], card, seed=seed, tta_pixels=tta_pixels)


def tune_parts(
    parts: Sequence[Part], card: ModelCard, *, seed: int = 0, tta_pixels: int = 0
) -> Tuned:
    """Choose one `Tuned` for several models of one kind, each on pairs of its own; see `tune`."""
    card = card.model_copy(update={"tuned": Tuned()})
    items = [(engine, data, i) for engine, data in parts for i in range(len(data))]
    seen = _gather(items, card, seed)
    if len(seen) < LEAST:
        why = f"not tuned: fewer than {LEAST} usable validation images tell too little"
        return Tuned(rule=f"{why} (there are {len(items)} in all)")
    temperature, fitted = _temperature(seen, card, seed)
    gains = [fitted]
    card = _with(card, temperature=temperature)
    for place, one in enumerate(seen):  # one after the other: all of them twice would be too much
        seen[place] = replace(one, probabilities=temper(one.probabilities, card))
    thresholds, more = _thresholds(seen, card)
    card, gains = _with(card, thresholds=thresholds), gains + more
    maps = [classify(one.probabilities, card.labels, thresholds) for one in seen]
    for field, remove in (("smallest", True), ("holes", False)):
        chosen: list[int] = []
        for index in range(len(card.labels.scored)):
            value, gain = _areas(seen, maps, card.labels, index, remove=remove)
            chosen.append(value)
            gains += [gain] if gain else []
        card = _with(card, **{field: _short(chosen)})
    gains += _averaging(items, card, seen, tta_pixels)
    return card.tuned.model_copy(update={"gains": tuple(gains), "rule": RULE})


def words(tuned: Tuned) -> list[str]:
    """A line for each choice that was kept, and for what averaging would do."""
    lines = []
    for gain in tuned.gains:
        on = f"on {gain.images} validation images"
        change = gain.after - gain.before
        halves = " and ".join(f"{one:+.4f}" for one in gain.confirmed)
        if gain.kept:
            lines.append(
                f"{gain.choice} {gain.value:g} instead of {gain.default:g}: {gain.measure} "
                f"{change:+.4f} {on} ({halves} on each half when chosen on the other)"
            )
        elif gain.choice == AVERAGING:
            does = f"would add {change:.4f} Dice" if change >= MARGIN else "would not help"
            lines.append(f"--tta {does} ({change:+.4f} {on}, {halves} on each half)")
    if not any(gain.kept for gain in tuned.gains):
        lines.insert(0, tuned.rule if not tuned.gains else "Nothing tuned: no choice helps enough")
    return lines


def _with(card: ModelCard, **values: Any) -> ModelCard:
    return card.model_copy(update={"tuned": card.tuned.model_copy(update=values)})


def _gather(items: Sequence[_Item], card: ModelCard, seed: int) -> list[Seen]:
    """Validation images in a random order, so that every second one makes a random half."""
    chosen: list[int] = []
    room = VALUES
    for index in np.random.default_rng(seed).permutation(len(items)).tolist():
        _, dataset, place = items[index]
        values = dataset.facts[place].pixels * card.network.out_channels
        if len(chosen) < MOST and values <= room:
            chosen.append(index)
            room -= values
    if len(chosen) < LEAST:
        return []
    seen = []
    with bar("Tuning", len(chosen)) as advance:
        for index in chosen:
            engine, dataset, place = items[index]
            image, truth = dataset.read(place)
            valid = dataset.labels.valid(truth)
            seen.append(Seen(index, whole_image(engine, image), truth, valid))
            advance()
    return seen


# Which value, and whether it is kept ------------------------------------------------------------


def _halves(count: int) -> tuple[Array, Array]:
    return np.arange(0, count, 2), np.arange(1, count, 2)


def _decide(choice: str, values: Sequence[float], default: int, table: Array) -> tuple[int, Gain]:
    """Which of several values is taken, by its place, and what it is worth.

    Args:
        choice: in words.
        values: the candidates.
        default: place of the one that changes nothing.
        table: Dice of each image with each candidate, (images, candidates).
    """
    one, other = _halves(len(table))

    def gain(best: int, rows: Array) -> float:
        return float((table[rows, best] - table[rows, default]).mean())

    everything = np.arange(len(table))
    confirmed = (
        gain(_best(table[other], default), one),
        gain(_best(table[one], default), other),
    )
    best = _best(table, default)
    kept = min(*confirmed, gain(best, everything)) >= MARGIN
    return best if kept else default, Gain(
        choice=choice,
        default=values[default],
        value=values[best],
        before=float(table[:, default].mean()),
        after=float(table[:, best].mean()),
        confirmed=confirmed,
        images=len(table),
        kept=kept,
    )


def _best(table: Array, default: int) -> int:
    """Place of the candidate of the highest mean, of equal ones the nearest to the default."""
    means = table.mean(axis=0)
    equal = np.flatnonzero(means >= means.max() - 1e-12)
    return int(equal[np.abs(equal - default).argmin()])


def _named(choice: str, labels: Labels, index: int) -> str:
    return choice if len(labels.scored) == 1 else f"{choice} of {labels.scored[index]}"


def _short(values: Sequence[Any]) -> tuple[Any, ...]:
    """One value for all classes where they have the same."""
    return tuple(values[:1] if len(set(values)) == 1 else values)


# Temperature ------------------------------------------------------------------------------------


def _temperature(seen: Sequence[Seen], card: ModelCard, seed: int) -> tuple[float, Gain]:
    samples = [_pixels(one, card, seed) for one in seen]
    one, other = ([samples[i] for i in half] for half in _halves(len(samples)))

    def loss(temperature: float, some: Iterable[tuple[Array, Array]]) -> float:
        each = [_nll(p, y, temperature, card.exclusive) for p, y in some if len(y)]
        return math.fsum(each) / max(len(each), 1)

    def fit(some: Sequence[tuple[Array, Array]]) -> float:
        edge = math.log(_HOTTEST)
        found = minimize_scalar(
            lambda x: loss(math.exp(x), some), bounds=(-edge, edge), method="bounded"
        )
        return round(math.exp(found.x), 2)

    falls = [(loss(1.0, b), loss(fit(a), b)) for a, b in ((other, one), (one, other))]
    best = fit(samples)
    before, after = loss(1.0, samples), loss(best, samples)
    kept = best != 1 and all(
        first - last >= max(_FALL * first, _LEAST_FALL) for first, last in [*falls, (before, after)]
    )
    gain = Gain(
        choice="temperature",
        measure="NLL",
        default=1.0,
        value=best,
        before=before,
        after=after,
        confirmed=(falls[0][1] - falls[0][0], falls[1][1] - falls[1][0]),
        images=sum(len(y) > 0 for _, y in samples),
        kept=kept,
    )
    return best if kept else 1.0, gain


def _pixels(one: Seen, card: ModelCard, seed: int) -> tuple[Array, Array]:
    """A random part of the pixels that count (see `calibration.RULE`): (K, n), and classes (n,).

    Where classes stand alone, K is 1, the pixels are those of all classes, and their class 0 or 1.
    """
    labels, rng = card.labels, np.random.default_rng((seed, one.index))
    drawn = classify(one.probabilities, labels, 0.5)
    if card.exclusive:
        truth = np.where(one.truth < len(labels.names), one.truth, 0)
        where = np.flatnonzero(relevant(truth > 0, drawn > 0, one.valid))
        where = _some(where, rng)
        flat = one.probabilities.reshape(len(one.probabilities), -1)
        return flat[:, where], truth.ravel()[where]
    probabilities, classes = [], []
    layers = zip(one.probabilities, labels.layers(one.truth), labels.layers(drawn), strict=True)
    for found, true, predicted in layers:
        where = _some(np.flatnonzero(relevant(true, predicted, one.valid)), rng)
        probabilities.append(found.ravel()[where])
        classes.append(true.ravel()[where].astype(np.uint8))
    return np.concatenate(probabilities)[None], np.concatenate(classes)


def _some(where: Array, rng: np.random.Generator) -> Array:
    if len(where) <= _SAMPLE:
        return where
    return np.sort(rng.choice(where, _SAMPLE, replace=False))


def _nll(probabilities: Array, classes: Array, temperature: float, exclusive: bool) -> float:
    """Mean negative log-likelihood of pixels, in nats."""
    warm = tempered(probabilities, temperature, exclusive=exclusive).astype(np.float64)
    right = (
        warm[classes, np.arange(len(classes))]
        if exclusive
        else np.where(classes == 1, warm[0], 1 - warm[0])
    )
    return float(-np.log(right.clip(1e-6)).mean())


# Threshold --------------------------------------------------------------------------------------


def _thresholds(seen: Sequence[Seen], card: ModelCard) -> tuple[tuple[float, ...], list[Gain]]:
    """Thresholds of the classes, one after the other; none where they exclude each other.

    There the largest of several probabilities decides, and a weight for each class, the like of a
    threshold, would be as many coupled numbers fitted to a handful of images.
    """
    labels, default = card.labels, THRESHOLDS.index(0.5)
    if card.exclusive:
        return (0.5,), []
    counts = counts_of(seen, [classify(one.probabilities, labels, 0.5) for one in seen], labels)
    chosen, gains = [], []
    for index in range(len(labels.scored)):
        right, drawn = map(
            np.array, zip(*(at_thresholds(one, labels, index) for one in seen), strict=True)
        )
        table = counts.with_class(index, right, drawn)
        place, gain = _decide(_named("threshold", labels, index), THRESHOLDS, default, table)
        counts.right[:, index], counts.drawn[:, index] = right[:, place], drawn[:, place]
        chosen.append(THRESHOLDS[place])
        gains.append(gain)
    return _short(chosen), gains


# Objects and holes ------------------------------------------------------------------------------


def _areas(
    seen: Sequence[Seen], maps: list[Array], labels: Labels, index: int, *, remove: bool
) -> tuple[int, Gain | None]:
    """Choose the smallest object, or the largest filled hole, of a class; change the maps so."""
    found = [
        measured(one, classes, labels, index, remove=remove)
        for one, classes in zip(seen, maps, strict=True)
    ]
    values = sizes_of(found, remove)
    if len(values) == 1:
        return 0, None
    counts = counts_of(seen, maps, labels)
    sign = -1 if remove else 1
    right = sign * np.array([summed(areas, areas.right, values, remove) for areas in found])
    drawn = sign * np.array([summed(areas, areas.drawn, values, remove) for areas in found])
    table = counts.with_class(
        index, counts.right[:, index, None] + right, counts.drawn[:, index, None] + drawn
    )
    name = "smallest object" if remove else "largest filled hole"
    place, gain = _decide(_named(f"{name} in pixels", labels, index), values, 0, table)
    if place:
        for i, areas in enumerate(found):
            which = changed(areas.sizes, values[place], remove)
            maps[i] = put(maps[i], labels, index, which[areas.where], present=not remove)
    return values[place], gain


# Averaging --------------------------------------------------------------------------------------


def _averaging(
    items: Sequence[_Item], card: ModelCard, seen: Sequence[Seen], pixels: int
) -> list[Gain]:
    """What averaging would add, on the first images, as many as `pixels` allow; never kept."""
    totals = np.cumsum([one.truth.size for one in seen])
    few = seen[: int(np.searchsorted(totals, pixels, side="right"))]
    if len(few) < LEAST:
        return []
    table = []
    for one in few:
        engine, dataset, place = items[one.index]
        image, _ = dataset.read(place)
        ways = (one.probabilities, temper(whole_image(Averaged(engine), image), card))
        table.append([_one_dice(one, probabilities, card) for probabilities in ways])
    dice = np.array(table)
    halves = [float((dice[half, 1] - dice[half, 0]).mean()) for half in _halves(len(few))]
    before, after = dice.mean(axis=0).tolist()
    gain = Gain(
        choice=AVERAGING,
        default=0,
        value=1,
        before=before,
        after=after,
        confirmed=(halves[0], halves[1]),
        images=len(few),
        kept=False,
    )
    return [gain]


def _one_dice(one: Seen, probabilities: Array, card: ModelCard) -> float:
    labels, classes = card.labels, draw(probabilities, card)
    layers = zip(labels.layers(one.truth), labels.layers(classes), strict=True)
    return mean_dice(layers, one.valid)
