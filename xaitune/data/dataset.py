"""ImageData: a labelled image set from class folders or a CSV, with groups, a seeded split and a fingerprint."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from xaitune._progress import Progress, shown_progress
from xaitune.config.settings import DataConfig, replace_fields
from xaitune.data.checks import DataCheck, check_data, trainability
from xaitune.data.class_folders import list_folder
from xaitune.data.images import ImageHeader, read_image
from xaitune.data.label_fixes import apply_label_fixes
from xaitune.data.listing import Listing, digest, list_csv, nfc, resolve_groups, run_threaded
from xaitune.data.mask_values import read_marked
from xaitune.data.masks import find_masks
from xaitune.data.resize import resize_image, resize_mask
from xaitune.data.scan import Scanned, scan_files, unreadable_files
from xaitune.data.splits import SPLITS, assign_splits
from xaitune.errors import ConfigError, DataError, nearest


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images with classes, groups and a split. Made by `from_folder`, `from_csv` or `from_config`.

    `config`: the settings it was made with (absolute paths), enough to make it again in another process. `root` and
    `files`: the folder and the POSIX paths below it, sorted by name; all arrays have the same order. `labels`: (n,)
    class numbers, indices into `class_names`. `groups`: (n,) names; a file without a known group is a group of its
    own. `split`: (n,) 'train', 'validation' or 'test'. `masks`: a path or None per file, or None if no mask folder
    was given. `skipped`: (file, reason) of the unreadable files, which are in no other field. `digests` and
    `headers`: content hash and header per file. `notes`: what was ignored, or read from an unusual place. `passed_over`:
    class -> what its folder holds besides. `values_used`: the smallest and the largest value of the 16-bit files whose
    header does not say how many bits are used, or None without such files. `fingerprint`: 16 hex digits over file names
    and contents, classes, groups, split, image size, resizing and bit depth: all that determines a training run (masks do
    not).
    """

    config: DataConfig
    root: Path
    files: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    groups: np.ndarray
    split: np.ndarray
    masks: tuple[Path | None, ...] | None
    skipped: tuple[tuple[str, str], ...]
    fingerprint: str
    digests: tuple[str, ...] = field(repr=False)
    headers: tuple[ImageHeader, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    passed_over: Mapping[str, str] = field(default_factory=dict)
    values_used: tuple[int, int] | None = None

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        masks: str | Path | None = None,
        groups: str | Path | None = None,
        image_size: tuple[int, int] = (224, 224),
        split: tuple[float, ...] = (0.6, 0.2, 0.2),
        split_seed: int = 0,
        resize: str = "stretch",
        recursive: bool = False,
        bit_depth: int | None = None,
        pixel_classes: str | None = None,
        label_fixes: str | Path | None = None,
    ) -> "ImageData":
        """The images of <path>/<class>/, or of <path>/train|validation|test/<class>/ (`split_name` knows more names).

        If there is a train folder, splits without a folder are taken from it. `masks`: a folder with <class>/<stem>.*, or
        `path` itself where the masks are beside the images. `recursive`: read images at any depth below a class folder.
        `bit_depth`: the bits that are used of 16-bit files, 9..16. `pixel_classes`: what the values in masks mean, for a
        segmentation; then the images may also lie directly in `path`.
        `groups`: a CSV `file,group`, or a regular expression to search for in each file name; its first capture group
        names the photographed thing. `label_fixes`: a CSV `file,action[,new_class]` with the action keep, relabel or drop; see
        `apply_label_fixes`. `image_size`: (height, width). `split`: shares of train, validation and test.
        Up to max(3, 5 %) unreadable images are skipped and listed in `skipped`. Raises DataError, ConfigError.

        Examples:
            >>> import tempfile, xaitune as xt
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     images = xt.make_demo_data(folder, scale=0.01, image_size=(32, 32)).root
            ...     data = xt.ImageData.from_folder(images, masks=images.parent / "masks")
            >>> len(data), data.class_names[:3]
            (114, ('blowhole', 'burst', 'centre_line'))
        """
        about = (image_size, split, split_seed, resize, recursive, bit_depth, pixel_classes, label_fixes)
        config = _config(path, masks, groups, *about)
        return _load(config, is_csv=False)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        masks: str | Path | None = None,
        groups: str | Path | None = None,
        image_size: tuple[int, int] = (224, 224),
        split: tuple[float, ...] = (0.6, 0.2, 0.2),
        split_seed: int = 0,
        resize: str = "stretch",
        bit_depth: int | None = None,
        pixel_classes: str | None = None,
        label_fixes: str | Path | None = None,
    ) -> "ImageData":
        """The images listed in a CSV `file,label[,split][,group]`, with paths relative to it; otherwise as `from_folder`.

        Examples:
            >>> import tempfile, xaitune as xt
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     demo = xt.make_demo_data(folder, scale=0.01, image_size=(32, 32))
            ...     table = demo.to_dataframe().rename(columns={"class": "label"})[["file", "label", "split"]]
            ...     table.to_csv(demo.root / "labels.csv", index=False)
            ...     len(xt.ImageData.from_csv(demo.root / "labels.csv"))
            114
        """
        config = _config(
            *(path, masks, groups, image_size, split, split_seed, resize),
            bit_depth=bit_depth,
            pixel_classes=pixel_classes,
            label_fixes=label_fixes,
        )
        return _load(config, is_csv=True)

    @classmethod
    def from_config(cls, config: DataConfig) -> "ImageData":
        """The images that a configuration names; its `path` is a folder or a .csv. Raises DataError."""
        if not config.path:
            raise DataError("No data set was given. Name a folder of class folders or a .csv, or set path in [data].")
        absolute = _config(config.path, config.masks, config.groups, label_fixes=config.label_fixes)
        paths = {name: getattr(absolute, name) for name in ("path", "masks", "groups", "label_fixes")}
        path = Path(absolute.path)
        return _load(replace_fields(config, paths), is_csv=path.suffix.lower() == ".csv" and not path.is_dir())

    def __len__(self) -> int:
        return len(self.files)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the arrays that `load` returns."""
        return self.config.image_size

    def indices(self, split: str) -> np.ndarray:
        """Positions of the images of a split, ascending. Raises DataError for an unknown split."""
        if split not in SPLITS:
            raise DataError(f"split must be one of {', '.join(SPLITS)}. Received: {split!r}.")
        return np.flatnonzero(self.split == split)

    def paths(self, indices: Sequence[int] | np.ndarray | None = None) -> list[Path]:
        """The paths of all files, or of those at `indices`."""
        return [self.root / self.files[i] for i in self._positions(indices)]

    def counts(self) -> pd.DataFrame:
        """Numbers of images and groups per class (rows), in each split and in total."""
        columns: dict[str, list[int]] = {}
        for kind in ("", "_groups"):
            for split in (*SPLITS, None):
                name = f"{split}{kind}" if split else "groups" if kind else "images"
                in_split = np.full(len(self), True) if split is None else self.split == split
                chosen = [in_split & (self.labels == c) for c in range(len(self.class_names))]
                columns[name] = [len(np.unique(self.groups[m])) if kind else int(m.sum()) for m in chosen]
        return pd.DataFrame(columns, index=pd.Index(self.class_names, name="class"))

    def load(self, indices: Sequence[int] | np.ndarray | None = None, progress: Progress | None = None) -> np.ndarray:
        """The images at `indices` (all by default), RGB 0..255, (n, height, width, 3) at `image_size`.

        uint8, or float32 if any file of the whole set has 16 bits. Calls `progress(done, count, what)` after each image.
        Raises ImageError for a file that has become unreadable.
        """
        chosen = self._positions(indices)
        deep = any(header.bits == 16 for header in self.headers)
        out = np.empty((len(chosen), *self.image_size, 3), np.float32 if deep else np.uint8)

        def load_one(i: int) -> None:
            image = read_image(self.root / self.files[chosen[i]], self.config.bit_depth)
            out[i] = resize_image(image, self.image_size, self.config.resize)

        run_threaded(load_one, len(chosen), progress)
        return out

    def mask(self, index: int) -> np.ndarray | None:
        """One image's mask at the file's own size, (h, w) bool, or None. Raises DataError if mask and image differ in size."""
        path = self.masks[index] if self.masks is not None else None
        if path is None:
            return None
        mask, header = read_marked(path, self.config.pixel_classes), self.headers[index]
        if mask.shape != (header.height, header.width):
            raise DataError(
                f"The mask {path} has {mask.shape[0]} x {mask.shape[1]} pixels, "
                f"its image {header.height} x {header.width}. They must be equal."
            )
        return mask

    def load_masks(self, indices: Sequence[int] | np.ndarray | None = None) -> list[np.ndarray | None]:
        """Masks at `image_size`, (height, width) bool each; None for an image without a mask."""
        chosen = self._positions(indices)
        out: list[np.ndarray | None] = [None] * len(chosen)

        def load_one(i: int) -> None:
            mask = self.mask(chosen[i])
            out[i] = None if mask is None else resize_mask(mask, self.image_size, self.config.resize)

        run_threaded(load_one, len(chosen), None)
        return out

    def check(self, progress: Progress | None = None) -> DataCheck:
        """Check the data for problems before training: see `DataCheck`."""
        return check_data(self, shown_progress(progress, "data check"))

    def require_trainable(self) -> None:
        """Raise DataError if training would be meaningless.

        That is so with only one class, or with a class that is empty, has fewer groups than there are splits, or has
        no images in a split.
        """
        if messages := [p.message for p in trainability(self) if p.level == "error"]:
            more = f" And {len(messages) - 2} more: see data-check." if len(messages) > 2 else ""
            raise DataError(f"Training on {self.config.path} would be meaningless. {' '.join(messages[:2])}{more}")

    def require_classes(self, named: Mapping[str, Iterable[str]]) -> None:
        """Raise ConfigError for a name that is not a class of the data; `named`: setting -> the classes that it names."""
        for setting, names in named.items():
            for name in names:
                if name not in self.class_names:
                    raise ConfigError(
                        f"{setting} must be classes of the data ({', '.join(self.class_names)}). "
                        f"Received: {name}.{nearest(name, self.class_names)}"
                    )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per image: file, class, group, split, height, width, mode, mask."""
        return pd.DataFrame(
            {
                "file": self.files,
                "class": [self.class_names[c] for c in self.labels],
                "group": self.groups,
                "split": self.split,
                "height": [h.height for h in self.headers],
                "width": [h.width for h in self.headers],
                "mode": [h.mode for h in self.headers],
                "mask": [str(m) if m else None for m in self.masks or [None] * len(self)],
            }
        )

    def __repr__(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return (
            f"ImageData({str(self.root)!r}: {len(self)} images, {len(self.class_names)} classes, "
            f"{len(np.unique(self.groups))} groups{skipped}, fingerprint {self.fingerprint})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.counts().to_html()}"

    def _positions(self, indices: Sequence[int] | np.ndarray | None) -> list[int]:
        if indices is None:
            return list(range(len(self)))
        return [int(i) for i in np.asarray(indices, dtype=int).ravel()]


def _config(
    path: str | Path,
    masks: str | Path | None,
    groups: str | Path | None,
    image_size: tuple[int, int] = (224, 224),
    split: tuple[float, ...] = (0.6, 0.2, 0.2),
    split_seed: int = 0,
    resize: str = "stretch",
    recursive: bool = False,
    bit_depth: int | None = None,
    pixel_classes: str | None = None,
    label_fixes: str | Path | None = None,
) -> DataConfig:
    """A configuration with absolute paths, so that it is valid in any working directory."""
    rule = None if groups is None else str(groups)
    if rule and (isinstance(groups, Path) or rule.lower().endswith(".csv")):
        rule = str(Path(rule).absolute())
    mask_folder, fixes = (None if p is None else str(Path(p).absolute()) for p in (masks, label_fixes))
    return DataConfig(
        *(str(Path(path).absolute()), mask_folder, rule, image_size, split, split_seed, resize),
        recursive=recursive,
        bit_depth=bit_depth,
        pixel_classes=pixel_classes,
        label_fixes=fixes,
    )


def _load(config: DataConfig, is_csv: bool) -> ImageData:
    path, masks = Path(config.path), Path(config.masks) if config.masks else None
    return load_listed(config, list_csv(path) if is_csv else list_folder(path, masks, recursive=config.recursive))


def load_listed(config: DataConfig, listing: Listing) -> ImageData:
    """The images of a listing, each read once. Raises DataError."""
    mask_paths = find_masks(listing, Path(config.masks)) if config.masks else None
    if config.label_fixes:  # after the masks, which may stand in folders of the classes as they were
        kept = apply_label_fixes(listing, Path(config.label_fixes))
        mask_paths = [mask_paths[i] for i in kept] if mask_paths else None
    scanned = scan_files(listing.root, listing.files, config.bit_depth)
    skipped = unreadable_files(listing.root, listing.files, scanned)
    groups = resolve_groups(listing, config.groups)

    readable = [i for i, s in enumerate(scanned) if not s.reason]
    files = tuple(listing.files[i] for i in readable)
    labels = np.array([listing.classes.index(listing.classes_of[i]) for i in readable], dtype=np.int64)
    group_names = np.array([groups[i] for i in readable], dtype=str)
    given = [listing.splits[i] for i in readable]
    split = assign_splits(labels, group_names, given, config.split, config.split_seed, config.fold)
    for array in (labels, group_names, split):
        array.flags.writeable = False
    scans = [scanned[i] for i in readable]
    used = [s.values for s in scans if s.values is not None]
    return ImageData(
        config=config,
        root=listing.root,
        files=files,
        labels=labels,
        class_names=tuple(listing.classes),
        groups=group_names,
        split=split,
        masks=tuple(mask_paths[i] for i in readable) if mask_paths else None,
        skipped=tuple(skipped),
        fingerprint=_fingerprint(config, listing, readable, scans, group_names, split),
        digests=tuple(s.digest for s in scans),
        headers=tuple(s.header for s in scans if s.header is not None),
        notes=tuple(listing.notes),
        passed_over=listing.passed_over,
        values_used=(min(low for low, _ in used), max(high for _, high in used)) if used else None,
    )


def _fingerprint(
    config: DataConfig,
    listing: Listing,
    readable: Sequence[int],
    scans: Sequence[Scanned],
    groups: np.ndarray,
    splits: np.ndarray,
) -> str:
    parts = [f"{config.image_size} {config.resize}", *listing.classes, ""]
    for i, scan, group, split in zip(readable, scans, groups, splits, strict=True):
        parts += [nfc(listing.files[i]), scan.digest, listing.classes_of[i], group, split]
    return digest(parts)
