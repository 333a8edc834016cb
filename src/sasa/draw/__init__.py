"""Figures: curves, attention, boxes, confusion matrices."""
