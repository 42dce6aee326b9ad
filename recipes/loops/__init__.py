"""What the four training loops share: digits, two small models, settings, and the last table."""
