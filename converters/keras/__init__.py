"""Keras weight files (.h5, .weights.h5, .keras), read and written with h5py alone."""
