"""The parts of `recipes/soft_symmetry.py`: tasks, methods, and what runs them."""
