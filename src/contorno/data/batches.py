"""Batches for training: which image, which crop, drawn from (seed, epoch, step) alone.

No state exists that a resumed run would have to restore, and the number of workers changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contorno.ahead import in_order
from contorno.config import Preprocessing
from contorno.data.dataset import Dataset
from contorno.data.labels import IGNORE, MOST_LAYERS
from contorno.normalise import normaliser
from contorno.resample import resize

Array = NDArray[Any]
Example = tuple[str, Array, Array]  # name, image (h, w, C), class indices (h, w)
_MOVED = 1 / 3  # of the crops that miss a class; nnU-Net (Isensee et al. 2021) moves a third of all
_BAND = 2**20  # pixels that are counted together


@dataclass(frozen=True)
class Batch:
    """Images (N, C, h, w), class maps (N, 1, h, w) float, and their names.

    Images are in file units, or what `normaliser` makes of them where the model wants that; resized
    masks of two classes are soft: shares of foreground from 0 to 1.
    """

    images: Tensor
    masks: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Sampler:
    """Draws the batches of every epoch.

    Args:
        dataset: the training part.
        batch_size: examples in a batch (the last of an epoch may have fewer, unless cropping).
        crop: edge of the square crops, or None for whole images.
        steps: batches in an epoch; without crops an epoch sees every image once.
        preprocessing: of the model: how images are normalised, and resized if they are.
        seed: of the run.
    """

    dataset: Dataset
    batch_size: int
    crop: int | None
    steps: int
    preprocessing: Preprocessing
    seed: int
    _normalisers: dict[int, Callable[[Array], Array]] = field(default_factory=dict, repr=False)

    def batches(self, epoch: int, *, start: int, workers: int) -> Iterator[Batch]:
        """The batches from step `start` of an epoch on, read and cut ahead by threads."""
        tasks = [partial(self._examples, epoch, step) for step in range(start, self.steps)]
        for examples in in_order(tasks, workers, waiting=min(workers, 3) + 1):
            yield self._collate(examples)

    def rng(self, *key: int) -> np.random.Generator:
        """The random numbers of one place in the run, such as (epoch, step)."""
        # The length goes in too: NumPy pads with zeros, so (1,) and (1, 0) would be one stream.
        return np.random.default_rng([self.seed, len(key), *key])

    def _chosen(self, epoch: int, step: int) -> list[int]:
        """Indices of the images of a batch: a stream of passes, each in an order of its own."""
        count = len(self.dataset)
        if self.crop is None:  # an epoch is one pass; its last batch may be smaller
            first, last = step * self.batch_size, min((step + 1) * self.batch_size, count)
            numbers = range(epoch * count + first, epoch * count + last)
        else:
            first = (epoch * self.steps + step) * self.batch_size
            numbers = range(first, first + self.batch_size)
        return [int(_order(self.seed, n // count, count)[n % count]) for n in numbers]

    def _examples(self, epoch: int, step: int) -> list[Example]:
        """What a batch is made of; NumPy alone, since torch in several threads would start a team
        of compute threads for each, all contending with the training for the cores."""
        examples = []
        for place, index in enumerate(self._chosen(epoch, step)):
            image, mask = self.dataset.read(index)
            if index not in self._normalisers:
                self._normalisers[index] = normaliser(image, self.preprocessing)
            if self.crop is not None:
                rng = self.rng(epoch, step, place)
                multilabel = self.dataset.labels.multilabel
                image, mask = random_crop(image, mask, self.crop, rng, multilabel=multilabel)
            image = self._normalisers[index](image)
            examples.append((self.dataset.pairs[index].name, image, mask))
        return examples

    def _collate(self, examples: list[Example]) -> Batch:
        names = tuple(name for name, _, _ in examples)
        size = self.preprocessing.size
        if size is None:
            images = _channels_last(np.stack([image for _, image, _ in examples]))
            masks = torch.from_numpy(np.stack([mask for _, _, mask in examples]))[:, None].float()
            return Batch(images, masks, names)
        sized = [resize(_channels_last(i[None]).float(), *size) for _, i, _ in examples]
        labels = self.dataset.labels
        several = labels.multilabel or labels.ignored  # what a pixel is then is no amount
        soft = labels.channels == 1 and not several  # edges between 0 and 1, as in R1
        sized_masks = [
            resize(
                torch.from_numpy(np.require(mask, requirements="W"))[None, None].float(),
                *size,
                mode="bilinear" if soft else "nearest-exact",
            )
            for _, _, mask in examples
        ]
        return Batch(torch.cat(sized), torch.cat(sized_masks), names)


@lru_cache(maxsize=4)  # a pass may be long, and every batch asks for its part of the order
def _order(seed: int, number: int, count: int) -> Array:
    """The order of the images in one pass over them."""
    return np.random.default_rng([seed, 1, number]).permutation(count)


def random_crop(
    image: Array, mask: Array, size: int, rng: np.random.Generator, *, multilabel: bool = False
) -> tuple[Array, Array]:
    """A square crop of image (H, W, C) and class map (H, W); smaller ones are mirrored to the size.

    Where it misses a class of the picture, each being as likely to be asked for, one of three is
    moved to a pixel of that.
    """
    last = [max(length - size, 0) for length in mask.shape]
    y, x = (int(rng.integers(end + 1)) for end in last)
    if rng.random() < _MOVED:
        wanted = _one_class(mask, rng, multilabel=multilabel)
        if not wanted[y : y + size, x : x + size].any() and wanted.any():
            places = np.flatnonzero(wanted)
            place = divmod(int(places[rng.integers(len(places))]), mask.shape[1])
            corner = [at - size // 2 + int(rng.integers(-size // 4, size // 4 + 1)) for at in place]
            y, x = (min(max(at, 0), end) for at, end in zip(corner, last, strict=True))
    image, mask = image[y : y + size, x : x + size], mask[y : y + size, x : x + size]
    down, right = size - mask.shape[0], size - mask.shape[1]
    if down or right:
        around = ((down // 2, down - down // 2), (right // 2, right - right // 2))
        image = np.pad(image, (*around, (0, 0)), mode="reflect")
        mask = np.pad(mask, around, mode="reflect")
    return image, mask


def _one_class(mask: Array, rng: np.random.Generator, *, multilabel: bool) -> Array:
    """Where a class drawn from those in a class map is."""
    values = _values(mask)
    if multilabel:
        bits = [k for k in range(MOST_LAYERS) if (values >> k & 1).any()]
        return np.asarray(mask >> bits[rng.integers(len(bits))] & 1) if bits else mask
    present = [int(v) for v in values if v not in (0, IGNORE)]
    if len(present) > 1:  # two classes need no draw
        return np.asarray(mask == present[rng.integers(len(present))])
    return np.asarray(mask == present[0]) if present else np.zeros_like(mask)


def _values(mask: Array) -> Array:
    """The values of a class map, in bands: counting makes eight bytes of every pixel's one."""
    rows = max(1, _BAND // mask.shape[1])
    counts = np.zeros(IGNORE + 1, np.int64)
    for start in range(0, len(mask), rows):
        counts += np.bincount(mask[start : start + rows].ravel(), minlength=IGNORE + 1)
    return np.flatnonzero(counts)


def _channels_last(images: Array) -> Tensor:
    """(N, H, W, C) as a tensor (N, C, H, W) that lies in memory as it did, channels last."""
    images = images.astype(np.int32) if images.dtype == np.uint16 else images  # torch lacks uint16
    return torch.from_numpy(np.require(images, requirements=("C", "W"))).permute(0, 3, 1, 2)
