"""Crop boxes: where the object of each train image may be, found without labels."""
