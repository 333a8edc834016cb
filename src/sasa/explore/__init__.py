"""The attention explorer: one HTML file that shows a trained network's attention for the pixel under the pointer."""
