"""ChainerCV .npz files: reader, mapping, writer."""
