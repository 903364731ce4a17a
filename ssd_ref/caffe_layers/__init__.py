"""Caffe's layers as torch modules, each with the exact semantics of the original.

``names``, ``params`` and ``geometry`` import no torch, so that a file can be checked before torch is loaded.
"""
