"""The task of object detection."""
