"""Side doors: the callback of the training loop, and its sleeves for the trainers people have."""
