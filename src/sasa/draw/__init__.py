"""Figures: curves, attention, classes and boxes, confusion matrices."""
