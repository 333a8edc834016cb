"""A pickle that does something when it is read, for tests that pickles are refused unread."""

import os


class MakesDirectory:
    """An object whose unpickling creates the directory `path`."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)
