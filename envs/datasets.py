"""Labelled images from files: embedded digits, MNIST, CIFAR-100, folders of pictures.

Nothing is ever downloaded. Where a file is missing, the message says what to put where; where the
publisher's checksums are known, a file with another one is refused.

Source of the embedded digits: E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten
Digits, UCI Machine Learning Repository (CC BY 4.0), its test set as scikit-learn bundles it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DIGITS_FILE = Path(__file__).with_name("digits.csv.gz")
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
MNIST_SHA256 = {
    f"{name}-ubyte.gz": digest
    for name, digest in (
        ("train-images-idx3", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        ("train-labels-idx1", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        ("t10k-images-idx3", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        ("t10k-labels-idx1", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    )
}
CIFAR100_FILE = "cifar-100-binary.tar.gz"
CIFAR100_MD5 = "03b5dce01913d631647c71ecec9e9cb8"  # the publisher gives no other
FOLDER_TRAIN_SHARE = 6 / 7
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm")


class DataMissing(ValueError):
    """Files that are not where they should be, or are not what they should be."""


@dataclass(frozen=True)
class Images:
    """Labelled images, of which some are set aside for tests.

    Attributes:
        name: Of the data set.
        shape: Channels, height and width.
        train: (n, channels x height x width) uint8, channel by channel.
        train_labels: (n,) int64 from 0.
        test: The same for images that are only predicted.
        test_labels: (m,) int64.
        largest: Value of a white pixel, 255 or 16.
    """

    name: str
    shape: tuple[int, int, int]
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    largest: int = 255

    @property
    def num_classes(self) -> int:
        """Labels are below this."""
        return int(max(self.train_labels.max(), self.test_labels.max())) + 1

    @property
    def num_pixels(self) -> int:
        """Length of one image."""
        return self.train.shape[1]


def load_images(name: str, folder: str) -> Images:
    """Read one data set.

    Args:
        name: digits (embedded, needs no file), mnist, cifar100 or folder.
        folder: Where its files are, relative to the working directory; not read for digits.

    Raises:
        ValueError: Unknown name.
        DataMissing: A file is missing, damaged or not the published one.
    """
    if name == "digits":
        return digits()
    if name not in LOADERS:
        known = ", ".join(["digits", *LOADERS])
        raise ValueError(f"env.dataset={name!r} is not known; choose one of {known}.")
    return LOADERS[name](Path(folder))


def digits() -> Images:
    """1,797 digits of 8 x 8 pixels from 0 to 16; every fifth of a class is set aside for tests."""
    data = DIGITS_FILE.read_bytes()
    _check_digest(DIGITS_FILE, data, "sha256", DIGITS_SHA256)
    table = np.loadtxt(io.BytesIO(gzip.decompress(data)), delimiter=",").astype(np.int64)
    pixels, labels = table[:, :-1].astype(np.uint8), table[:, -1]
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    return Images(
        "digits",
        (1, 8, 8),
        pixels[~is_test],
        labels[~is_test],
        pixels[is_test],
        labels[is_test],
        largest=16,
    )


def mnist(folder: Path) -> Images:
    """60,000 + 10,000 digits of 28 x 28 pixels from the four published IDX files."""
    wanted = list(MNIST_SHA256)
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise DataMissing(
            f"MNIST is not in {folder}: put {', '.join(missing)} there, as published, still "
            "compressed (nothing is downloaded), name another folder with env.data_dir=..., or "
            "use env.dataset=digits, which needs no file."
        )
    arrays = []
    for name in wanted:
        data = (folder / name).read_bytes()
        _check_digest(folder / name, data, "sha256", MNIST_SHA256[name])
        arrays.append(read_idx(gzip.decompress(data), str(folder / name)))
    train, train_labels, test, test_labels = arrays
    return Images(
        "mnist",
        (1, *train.shape[1:]),
        train.reshape(len(train), -1),
        train_labels.astype(np.int64),
        test.reshape(len(test), -1),
        test_labels.astype(np.int64),
    )


def read_idx(data: bytes, where: str) -> np.ndarray:
    """Decode an IDX file of unsigned bytes: two zeros, type 8, dimensions, sizes, values.

    Raises:
        DataMissing: It is not such a file, or too short or too long.
    """
    header = np.frombuffer(data[:4], dtype=np.uint8)
    if len(header) < 4 or header[0] or header[1] or header[2] != 8:
        raise DataMissing(f"{where} is no IDX file of bytes; get the published file again.")
    start = 4 + 4 * int(header[3])
    shape = tuple(np.frombuffer(data[4:start], dtype=">u4").astype(int).tolist())
    if len(shape) != header[3] or len(data) - start != int(np.prod(shape, dtype=np.int64)):
        raise DataMissing(
            f"{where} says that it holds values of shape {shape}, but has {len(data) - start} "
            "bytes of them; get the published file again."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def cifar100(folder: Path) -> Images:
    """50,000 + 10,000 images of 3 x 32 x 32 pixels with fine labels, from the binary archive."""
    path = folder / CIFAR100_FILE
    if not path.is_file():
        raise DataMissing(
            f"CIFAR-100 is not in {folder}: put the binary version, {CIFAR100_FILE}, there, as "
            "published (nothing is downloaded), name another folder with env.data_dir=..., or use "
            "env.dataset=digits, which needs no file."
        )
    data = path.read_bytes()
    _check_digest(path, data, "md5", CIFAR100_MD5)
    return read_cifar100(data, str(path))


def read_cifar100(archive: bytes, where: str) -> Images:
    """Decode the archive: records of a coarse label, a fine label and 3,072 pixels.

    Raises:
        DataMissing: A member is missing or has another length.
    """
    parts = []
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
        for name in ("train.bin", "test.bin"):
            try:
                stream = members.extractfile(f"cifar-100-binary/{name}")
            except KeyError:
                stream = None
            data = b"" if stream is None else stream.read()
            if not data or len(data) % 3074:
                raise DataMissing(f"{where} has no whole {name}; get the published file again.")
            records = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3074)
            parts += [records[:, 2:], records[:, 1].astype(np.int64)]
    train, train_labels, test, test_labels = parts
    return Images("cifar100", (3, 32, 32), train, train_labels, test, test_labels)


def picture_folder(folder: Path) -> Images:
    """One subfolder of pictures per class, or one `<class>.npy` of bytes (n, h, w, channels).

    Classes are numbered in the order of their names; of each, the first six sevenths in the order
    of file names train (600 of 700 in the Continual ImageNet of Dohare et al.) and the rest test.
    Where the folder has a file SHA256SUMS, the files it lists must agree with it.
    """
    classes = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    arrays = sorted(folder.glob("*.npy")) if folder.is_dir() else []
    if bool(classes) == bool(arrays):
        raise DataMissing(
            f"{folder} has {len(classes)} subfolders and {len(arrays)} .npy files: put one "
            "subfolder of pictures per class there, or one <class>.npy of bytes (n, height, "
            "width, channels); nothing is downloaded. Name another folder with env.data_dir=..., "
            "or use env.dataset=digits, which needs no file."
        )
    _check_sums(folder)
    loaded = [_class_array(path) if arrays else _class_pictures(path) for path in arrays or classes]
    shapes = {images.shape[1:] for images in loaded}
    if len(shapes) != 1 or min(len(images) for images in loaded) < 2:
        raise DataMissing(
            f"{folder} has images of the shapes {sorted(shapes)}; all must be equal, with at "
            "least two images per class."
        )
    height, width, channels = shapes.pop()
    parts: list[list[np.ndarray]] = [[], [], [], []]
    for label, images in enumerate(loaded):
        flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        cut = min(len(flat) - 1, round(FOLDER_TRAIN_SHARE * len(flat)))
        labels = np.full(len(flat), label, dtype=np.int64)
        values = (flat[:cut], labels[:cut], flat[cut:], labels[cut:])
        for part, value in zip(parts, values, strict=True):
            part.append(value)
    train, train_labels, test, test_labels = (np.concatenate(part) for part in parts)
    shape = (channels, height, width)
    return Images(folder.name, shape, train, train_labels, test, test_labels)


LOADERS: dict[str, Callable[[Path], Images]] = {
    "mnist": mnist,
    "cifar100": cifar100,
    "folder": picture_folder,
}


def _class_array(path: Path) -> np.ndarray:
    images = np.load(path, allow_pickle=False)
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataMissing(
            f"{path} holds {images.dtype} values of shape {images.shape}; it must hold bytes "
            "(uint8) of shape (n, height, width, channels)."
        )
    return images


def _class_pictures(folder: Path) -> np.ndarray:
    from PIL import Image  # comes with matplotlib

    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)
    pictures = []
    for file in files:
        with Image.open(file) as picture:
            pictures.append(np.asarray(picture.convert("RGB"), dtype=np.uint8))
    if len({picture.shape for picture in pictures}) != 1:
        raise DataMissing(f"{folder} must hold pictures ({', '.join(PICTURES)}) of one size.")
    return np.stack(pictures)


def _check_sums(folder: Path) -> None:
    listing = folder / "SHA256SUMS"
    if not listing.is_file():
        return
    for line in listing.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition(" ")
        path = folder / name.strip().lstrip("*")
        if not path.is_file():
            raise DataMissing(f"{path} is listed in {listing}, but missing.")
        _check_digest(path, path.read_bytes(), "sha256", digest)


def _check_digest(path: Path, data: bytes, kind: str, expected: str) -> None:
    found = hashlib.new(kind, data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataMissing(
            f"{path} has the {kind} {found}, expected {expected}: it is damaged or another file; "
            "get the published one again."
        )
