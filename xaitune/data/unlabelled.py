"""Images without labels: a folder that holds images and no class folders."""

from pathlib import Path

from xaitune.config.settings import DataConfig
from xaitune.data.dataset import ImageData, load_listed
from xaitune.data.images import expand_images, is_image_name
from xaitune.data.listing import Listing, names_masks, nfc
from xaitune.data.masks import leave_out_masks
from xaitune.data.walk import entries, walk_files
from xaitune.errors import ImageError

NO_CLASS = ""  # name of the only class of images without labels


def is_flat(folder: Path) -> bool:
    """Whether a folder holds images directly, and no folder with images but one of masks.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "part.png").touch()
        ...     is_flat(Path(folder)), is_flat(Path(folder) / "part.png")
        (True, False)
    """
    if not folder.is_dir():
        return False
    inside = entries(folder)
    below = [Path(e.path) for e in inside if e.is_dir() and not names_masks(e.name)]
    return any(is_image_name(Path(e.path)) for e in inside if not e.is_dir()) and not any(
        is_image_name(path) for inner in below for path in walk_files(inner)
    )


def unlabelled_images(config: DataConfig) -> ImageData:
    """The images directly in the folder `config.path`, all of one class without a name.

    Raises DataError and ImageError.
    """
    root = Path(config.path).absolute()
    files = sorted(
        (path.name for path in expand_images(root) if path.parent == root), key=lambda file: (nfc(file), file)
    )
    if not files:
        raise ImageError(
            f"No images directly in {root}, but in folders below: put images without labels into one folder."
        )
    blank = [""] * len(files)
    listing = Listing(root, files, [NO_CLASS] * len(files), blank, list(blank), [NO_CLASS])
    leave_out_masks(listing)
    return load_listed(config, listing)


def is_unlabelled(data: ImageData) -> bool:
    """Whether the images were read by `unlabelled_images`."""
    return data.class_names == (NO_CLASS,)
