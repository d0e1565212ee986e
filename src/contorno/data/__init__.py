"""Pairs of images and masks: found, read, understood, drawn for training."""
