"""Training of the reference SSD by its sources' recipes: matching, loss, augmentation, schedules, the loop."""
