"""What a network can be trained to do, a package for each task."""
