"""TensorFlow checkpoints and frozen graphs, read and written without TensorFlow."""
