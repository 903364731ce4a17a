"""Augmentation of training images by the sources' recipes, and a faster composed form."""
