"""The commands behind `python -m equiwrap`: each is imported when it is called, with its extras."""
