"""One file from a hub to disk: resumed, checked, whole or not there."""

import errno
import hashlib
import os
from pathlib import Path

from mindsora.errors import InputError, shown
from mindsora.files import file_sha256
from mindsora.hub.sources import Listing, RemoteFile


def fetch(source, listing: Listing, file: RemoteFile, target: Path) -> None:
    """Download a file to `target`, unless it is there already.

    The bytes go to `target`.part first; a later call goes on from there.

    Raises:
        InputError: no connection, a full disk, or bytes that are not those that the hub lists.
    """
    if target.is_file():
        return
    part = target.with_name(target.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if not part.exists() or part.stat().st_size < file.size:
            source.download(listing, file, part)
        _check(listing, file, part)
        os.replace(part, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"the disk of {shown(target.parent)} is full: {file.name} has {file.size / 1e9:.2f} GB; make room and run "
                "the same command again, which goes on where it stopped"
            ) from error
        raise InputError(f"cannot write {shown(target)}: {error.strerror or error}") from error


def _check(listing: Listing, file: RemoteFile, part: Path) -> None:
    """Compare size and hash with the hub's. A file with wrong bytes is removed, a short one stays for the next call."""
    size = part.stat().st_size
    if size < file.size:
        raise InputError(
            f"{file.name} of {listing.repository} stopped after {size:,} of {file.size:,} bytes: run the same command "
            "again, which goes on from there"
        )
    right = size == file.size
    if right and file.sha256:
        right = file_sha256(part) == file.sha256
    elif right and file.git:
        right = _git_blob(part) == file.git
    if not right:
        part.unlink()
        raise InputError(
            f"{file.name} of {listing.repository} has other bytes than the hub lists (size or hash): it was removed; run "
            "the same command again"
        )


def _git_blob(path: Path) -> str:
    """The id that git gives a file."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
