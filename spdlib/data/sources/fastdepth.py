"""FastDepth's .h5 frames, in folders or in tar shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from spdlib.data.files import as_metres
from spdlib.data.frames import Frame, Frames
from spdlib.data.hdf5 import open_hdf5, own_array
from spdlib.data.sources.base import Item, Source, nyu_frame
from spdlib.errors import DataError
from spdlib.reading import LARGEST_FRAME, reading, regular_file


class _H5Frames(Source):
    """Frames of `rgb` (3, H, W) uint8 and `depth` (H, W) float metres in .h5 files.

    `path` is the folder of the splits, `split` "train" or "test", `truth` what the depth is.

    Raises:
        DataError: missing or empty split, duplicate id.
    """

    patterns: ClassVar[Sequence[str]]
    """Where the files of a split lie, with {} for its name."""

    def __init__(self, path: str | Path, split: str, truth: str = "inpainted") -> None:
        items = [item for file in self._files(Path(path), split) for item in self._listed(file)]
        super().__init__(items, f"{path} (split {split!r})", truth)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether "train" or "test" has files."""
        return any(cls._files(path, split) for split in ("train", "test"))

    @classmethod
    def open_splits(cls, path: Path, truth: str = "inpainted") -> Mapping[str, Frames]:
        """Frames of "train" and "test", as far as they have files."""
        splits = [split for split in ("train", "test") if cls._files(path, split)]
        return {split: cls(path, split, truth) for split in splits}

    @classmethod
    def _files(cls, path: Path, split: str) -> list[Path]:
        """The files of the first pattern that has any."""
        names = ("test", "val") if split == "test" else (split,)
        found = (sorted(path.glob(p.format(name))) for name in names for p in cls.patterns)
        return next(filter(None, found), [])

    def _listed(self, file: Path) -> Iterable[Item]:
        """The items in one file."""
        raise NotImplementedError

    def _stored(self, item: Item) -> Any:
        """The path or the content of an item's .h5 file."""
        return item.content

    def _read(self, item: Item) -> Frame:
        with open_hdf5(self._stored(item), item.where) as file:
            rgb, depth = (np.asarray(own_array(file, n, item.where)) for n in ("rgb", "depth"))
        if rgb.ndim != 3 or rgb.shape[0] != 3 or rgb.dtype != np.uint8:
            raise DataError(
                f"{item.where}: 'rgb' is {rgb.dtype} {list(rgb.shape)}, not uint8 [3, H, W]; "
                "convert it"
            )
        image = np.ascontiguousarray(rgb.transpose(1, 2, 0))
        return nyu_frame(item, image, {str(self.truth): as_metres(depth, item.where)})


class FastDepthFolder(_H5Frames):
    """`<split>/<scene>/NNNNN.h5`: the layout of sparse-to-dense and FastDepth.

    Its authors in-painted the depth with NYU's toolbox. Ids are "scene/NNNNN". The split "test"
    reads the folder `val` (the official test frames) where there is no `test`.
    """

    expects = "FastDepth folders (train/<scene>/*.h5)"
    patterns = ("{}/*/*.h5",)

    @property
    def files(self) -> list[Path]:
        """The .h5 file of each frame."""
        return [item.content for item in self._items]

    def _listed(self, file: Path) -> Iterable[Item]:
        return [Item(f"{file.parent.name}/{file.stem}", str(file), file)]


class TarShards(_H5Frames):
    """`<split>-NNNNNN.tar` shards of FastDepth's .h5 files, as on the Hugging Face hub.

    Members are read where they lie: nothing is unpacked to disk. Shards whose members could
    escape a folder when unpacked (absolute names, "..", links, devices) are refused as a whole.
    Ids are "scene/NNNNN". The split "test" reads `val-*.tar` where there is no `test-*.tar`.

    The path is the folder of the shards, or the one above `data`.
    """

    expects = "tar shards (train-000000.tar)"
    patterns = ("data/{}-*.tar", "{}-*.tar")

    def _listed(self, file: Path) -> Iterable[Item]:
        """The .h5 members of an uncompressed shard; DataError on the first unsafe one."""
        length = regular_file(file, DataError).stat().st_size
        with (
            reading(file, "not a complete, uncompressed tar file"),
            file.open("rb") as stream,
            tarfile.open(fileobj=stream, mode="r:") as tar,
        ):
            for member in tar:
                name = PurePosixPath(member.name)
                escapes = name.is_absolute() or ".." in name.parts or "\\" in member.name
                plain = (member.isfile() and not member.issparse()) or member.isdir()
                if escapes or not plain:
                    raise DataError(
                        f"{file}: member {member.name!r} is not a plain file below the shard's "
                        "folder; do not trust this file, download it from its publisher"
                    )
                # a negative size would lead tarfile in circles
                if not 0 <= member.size <= min(length - member.offset_data, LARGEST_FRAME):
                    raise DataError(
                        f"{file}: member {member.name!r} has {member.size:,} bytes by its header, "
                        "more than the file or a frame; it is truncated: download it again"
                    )
                if member.isfile() and name.suffix == ".h5":
                    frame = "/".join(name.with_suffix("").parts[-2:])
                    content = (file, member.offset_data, member.size)
                    yield Item(frame, f"{file} ({member.name})", content)
            stream.seek(tar.offset)  # tarfile takes a damaged header, or none, for the end
            end = stream.read(tarfile.BLOCKSIZE)
            if any(end) or len(end) < tarfile.BLOCKSIZE:
                raise DataError(
                    f"{file}: damaged or truncated at byte {tar.offset:,}; download it again"
                )

    def _stored(self, item: Item) -> io.BytesIO:
        path, offset, size = item.content
        with path.open("rb") as shard:
            shard.seek(offset)
            return io.BytesIO(shard.read(size))
