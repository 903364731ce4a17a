"""Files from the network, taken whole and checked or not at all: HTTP with resume, locks, archives, package indexes.

Nothing here knows what the files are for; ``ssdconv.zoo`` does. Imports neither torch nor numpy.
"""
