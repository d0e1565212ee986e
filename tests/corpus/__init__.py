"""Folders of images and masks with something odd in them, and what a check must say about each.

Everything is made on the spot, tiny and always the same. What is right is decided here by what a
user needs, not by what the check happens to do.
"""

from __future__ import annotations

from corpus.case import KINDS, NOTES, UNREADABLE, Case
from corpus.classes import CLASSES
from corpus.damage import DAMAGE
from corpus.files import FILES
from corpus.images import IMAGES
from corpus.masks import MASKS
from corpus.sets import SETS

__all__ = ["CASES", "KINDS", "NOTES", "PEER_CASES", "UNREADABLE", "Case"]

CASES: list[Case] = [*FILES, *DAMAGE, *IMAGES, *MASKS, *CLASSES, *SETS]

# What users really do wrong, with nothing in it that only contorno could know.
PEER_CASES: tuple[str, ...] = (
    # files
    "image without mask",
    "mask without image",
    "stem misspelt",
    "image as png and jpg",
    "X.PNG",
    "image NFC, mask NFD",
    "name: spaces",
    "suffix _mask",
    ".DS_Store beside",
    "._p0.png of a Mac",
    "image is a dangling link",
    "image of zero bytes",
    "JPEG named png",
    "web page as image",
    "LFS pointer as mask",
    "half a PNG",
    "half a JPEG",
    "half a PNG as mask",
    # images
    "EXIF 6, mask upright",
    "16-bit among 8-bit",
    "one NaN",
    "CMYK JPEG",
    "RGBA, alpha varies",
    "one grey among colour",
    "TIFF of 3 pages",
    "30k x 30k PNG",
    # masks
    "mask of 24 x 24",
    "one transposed",
    "{0,1} among {0,255}",
    "three colours and black",
    "palette of Pascal VOC",
    "JPEG masks of quality 90",
    "class not declared",
    "255 beside 0,1,2",
    "numbered objects",
    "every mask 0",
    "inverted {0,255}",
    "colour image as its mask",
    "folders swapped",
    # the set
    "exact copy, across the split",
)
