"""Weight files of every source to the reference and back: opened files, tensors, mappings, plans; what all sources share."""
