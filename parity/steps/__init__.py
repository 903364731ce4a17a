"""How training is compared: steps beside the source frameworks', augmentation beside samples that the originals drew."""
