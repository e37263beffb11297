"""Finished videos: in a folder by default, or wherever fsspec can write."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ultraflash.server.errors import DataUnusable, VideoGone
from ultraflash.server.logs import fields

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
# What is asked for at a time elsewhere: an answer takes long to come, whatever its length.
REMOTE_BLOCK_BYTES = 4 * 2**20
REFERENCE = ".reference"
REFERENCE_GONE = "What this starts from is no longer there; send it again."


def sha256_of(file: BinaryIO) -> str:
    """Digest of the rest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    while piece := file.read(CHUNK_BYTES):
        digest.update(piece)
    return digest.hexdigest()


class ArtifactStore:
    """Blocking; called from threads. A video appears under its name only when all of it is there."""

    def __init__(self, url: str) -> None:
        """Opens the place. Raises ``DataUnusable``."""
        try:
            # Other servers put videos there too, which a cached listing would not have.
            found = fsspec.core.url_to_fs(url, use_listings_cache=False)
            self._files: Any = found[0]
            self._root = str(found[1]).rstrip("/")
            self._files.makedirs(self._root, exist_ok=True)
        except Exception as error:
            # Each kind of place has errors of its own, for instance for missing credentials.
            raise DataUnusable(
                f"data.artifacts cannot be used: {error}. Give a folder, or a URL whose fsspec package is installed; "
                "s3:// needs pip install 'ultraflash[s3]' and, in the environment, what AWS's tools want: "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL for servers of others.",
                param="data.artifacts",
            ) from error

    def put(self, file: Path, job_id: str) -> int:
        """Moves a finished file to its place; returns its size in bytes."""
        return self._move(file, self._name(job_id))

    def put_reference(self, file: Path, digest: str) -> int:
        """Moves frames that videos start from to their place, anew if they are there; returns their bytes."""
        return self._move(file, self._reference(digest))

    def reference_bytes(self, digest: str) -> int:
        """Bytes of frames that videos start from. Raises ``VideoGone``."""
        try:
            return int(self._files.size(self._reference(digest)))
        except FileNotFoundError as error:
            raise VideoGone(REFERENCE_GONE) from error

    def fetch_reference(self, digest: str, path: Path) -> None:
        """Copies frames that a video starts from to a file here. Raises ``VideoGone``."""
        try:
            self._files.get_file(self._reference(digest), str(path))
        except FileNotFoundError as error:
            raise VideoGone(REFERENCE_GONE) from error

    def references(self) -> list[tuple[str, float]]:
        """Digests of all frames that videos start from, and when each was put there, in Unix seconds."""
        return [
            (name.rpartition("/")[2].removesuffix(REFERENCE), self._files.modified(name).timestamp())
            for name in self._files.glob(f"{self._root}/*{REFERENCE}")
        ]

    def reference_changed_at(self, digest: str) -> float | None:
        """When frames that videos start from were put there, in Unix seconds; None if they are not there."""
        try:
            return float(self._files.modified(self._reference(digest)).timestamp())
        except FileNotFoundError:
            return None

    def remove_reference(self, digest: str) -> None:
        """Removes frames that videos start from, if they are there."""
        try:
            self._files.rm_file(self._reference(digest))
        except FileNotFoundError:
            return

    def _move(self, file: Path, target: str) -> int:
        size = file.stat().st_size
        if isinstance(self._files, LocalFileSystem):
            try:
                os.replace(file, target)
                return size
            except OSError:
                # The folder is on another file system: copy beside the target, then rename.
                # Another server may do so with the same frames.
                part = f"{target}.{secrets.token_hex(8)}.part"
                shutil.copyfile(file, part)
                os.replace(part, target)
        else:
            self._files.put_file(str(file), target)
        file.unlink()
        return size

    def size(self, job_id: str) -> int:
        """Bytes of a video. Raises ``VideoGone``."""
        try:
            return int(self._files.size(self._name(job_id)))
        except FileNotFoundError as error:
            raise VideoGone("The file of this video is no longer there.") from error

    def read(self, job_id: str, start: int, length: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``start + length`` in pieces; the file is open already. Raises ``VideoGone``."""
        block_bytes = CHUNK_BYTES if isinstance(self._files, LocalFileSystem) else REMOTE_BLOCK_BYTES
        try:
            file = self._files.open(self._name(job_id), "rb", block_size=block_bytes)
        except FileNotFoundError as error:
            raise VideoGone("The file of this video is no longer there.") from error
        return _pieces(file, start, length)

    def remove(self, job_id: str) -> None:
        """Removes a video, if it is there."""
        try:
            self._files.rm_file(self._name(job_id))
        except FileNotFoundError:
            return
        log.info("video removed", extra=fields(job=job_id))

    def _reference(self, digest: str) -> str:
        return f"{self._root}/{digest}{REFERENCE}"

    def _name(self, job_id: str) -> str:
        return f"{self._root}/{job_id}.mp4"


def _pieces(file: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while length:
            piece = file.read(min(CHUNK_BYTES, length))
            if not piece:
                raise OSError(f"The file of a video ended {length} bytes early.")
            length -= len(piece)
            yield piece
