"""The attention explorer: one HTML file that shows where a trained network looks, for the pixel under the pointer."""
