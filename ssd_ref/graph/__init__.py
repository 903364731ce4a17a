"""Layer graphs: every operation of a source's layers in one place, shapes inferred from files, and the network that runs them.

An operation is one class, registered under the layer types it runs, with all that is known of it: its parameter message and defaults, the
names of its learned tensors, its shape rule and its formula, which is also what is exported to ONNX. Operations of a kind share a
file. Nothing but ``network`` loads torch before a formula is run, so that files can be checked and inspected without it.
"""
