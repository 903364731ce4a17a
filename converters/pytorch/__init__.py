"""PyTorch .pth files of other projects: safe reader, mapping, writer."""
