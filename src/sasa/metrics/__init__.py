"""Scores of predictions: confusion matrix, average precision."""
