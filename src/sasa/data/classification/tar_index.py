"""Where the members of a tar file lie: headers only, nothing unpacked."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from sasa.data.classification.names import printable
from sasa.errors import DataError

REFUSED = {
    tarfile.SYMTYPE: "a link",
    tarfile.LNKTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
# What tarfile raises on headers that were damaged, or made to do harm: with sizes and chains without end.
DAMAGE = (tarfile.TarError, ValueError, IndexError, OverflowError, MemoryError, RecursionError)


def scan(path: Path) -> Iterator[tarfile.TarInfo]:
    """The files in a tar file, in order.

    Raises:
        DataError: it is no tar file, damaged or cut off, or holds what is neither a file nor a folder.
    """
    try:
        if _block(path, 0).startswith(b"\x1f\x8b"):
            raise DataError(f"{printable(path)} is compressed: images are read by their place, from a plain tar file")
        with tarfile.open(path, "r:") as tar:
            for member in iter(tar.next, None):
                _check(path, member)
                if not member.isdir():
                    yield member
                tar.members.clear()  # it would keep them all  # pyright: ignore[reportAttributeAccessIssue]
            end = tar.offset
        # What begins with no header is the end of the members to tarfile; written to its end, a file has zeros there.
        if _block(path, end) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no header, and no mark of its end, at byte {end}")
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except DAMAGE as error:
        raise DataError(f"{printable(path)} is not a whole tar file: {str(error) or type(error).__name__}") from error


def _check(path: Path, member: tarfile.TarInfo) -> None:
    if member.size < 0:  # the next header would be looked for further to the front, without end
        raise tarfile.ReadError(f"a size of {member.size} bytes at byte {member.offset}")
    kind = "a sparse file" if member.issparse() else REFUSED.get(member.type)
    if kind:
        raise DataError(f"{printable(path)} has {kind} named {printable(member.name)!r}: only whole files are read")


def _block(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE)
