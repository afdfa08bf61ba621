"""Download a published model, converting each component as soon as its files are here."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mindsora import zoo
from mindsora.errors import InputError, shown
from mindsora.files import write_json
from mindsora.hub.assembling import alone, finish, make, model_row
from mindsora.hub.download import fetch
from mindsora.hub.selection import needed
from mindsora.hub.sources import SOURCES, HuggingFace, Listing, Modelers, ModelScope, RemoteFile
from mindsora.released import LICENCES, RELEASED, Part, Released

_DOWNLOADS = ".download"  # in the model folder; removed when the model is whole


@dataclass(frozen=True)
class Pull:
    """What a download will do; `run` does it.

    Attributes:
        row: the model.
        folder: the model folder.
        source: one of SOURCES, an instance.
        steps: for each component that is not there yet: its part, its repository, and the files of that which it needs.
    """

    row: Released
    folder: Path
    source: HuggingFace | ModelScope | Modelers
    steps: tuple[tuple[Part, Listing, tuple[RemoteFile, ...]], ...]

    @property
    def download(self) -> int:
        """Bytes still to download."""
        files = {(listing.repository, file.name): file.size for _, listing, files in self.steps for file in files}
        return sum(files.values()) - sum(_size(self._path(*key)) for key in files)

    @property
    def largest(self) -> int:
        """Bytes of the largest component's files, which are there beside what they become until it is converted."""
        return max((sum(file.size for file in files) for _, _, files in self.steps), default=0)

    @property
    def written(self) -> int:
        """Bytes of the model folder at most: float32."""
        return sum(4 * self.row.parameters.get(part.component, 0) for part, _, _ in self.steps)

    def lines(self) -> list[str]:
        """What will be downloaded, from where, under which terms, and the room that it takes."""
        lines = [f"{self.row.name}, {self.row.published}: {self.row.what}"]
        for part, listing, files in self.steps:
            size = sum(file.size for file in files) / 1e9
            lines.append(f"{part.component}: {listing.repository} at {listing.commit[:12]}, {size:.3f} GB")
            lines += [f"    {file.name} ({file.size:,} bytes)" for file in files]
        for repository, listing in {part.repository: listing for part, listing, _ in self.steps}.items():
            card = f"the card says {shown(listing.licence, quote=False)}" if listing.licence else "see its card"
            lines.append(f"licence of {repository}: {LICENCES.get(repository, 'not recorded here')}; {card}")
        if self.steps:
            lines.append(
                f"to download: {self.download / 1e9:.3f} GB; the folder {self.folder} then has at most "
                f"{self.written / 1e9:.3f} GB, and meanwhile up to {self.largest / 1e9:.3f} GB more"
            )
        else:
            lines.append(f"nothing to download: {self.folder} has every component")
        return lines

    def run(self, report: Callable = print) -> Path:
        """Download, check and convert. A run that was interrupted is continued by another one.

        Returns:
            The model folder.

        Raises:
            InputError: not enough disk, no connection, or files that are not what the hub lists or do not fit the model.
        """
        with alone(self.folder):
            self._check_disk()
            for part, listing, files in self.steps:
                for file in files:
                    fetch(self.source, listing, file, self._path(listing.repository, file.name))
                make(part, self._copy(listing.repository), self.folder, report)
                self._note(part, listing, files)
                self._remove(part, listing, files)
            finish(self.row, self.folder)
            shutil.rmtree(self.folder / _DOWNLOADS, ignore_errors=True)
        return self.folder

    def _remove(self, part: Part, listing: Listing, files: tuple[RemoteFile, ...]) -> None:
        """Remove the files of a component that is made, so that the disk never has two copies of the model."""
        later = {
            file.name
            for other, where, files in self.steps[self._number(part) + 1 :]
            for file in files
            if where.repository == listing.repository
        }
        for file in files:
            if file.name not in later:
                self._path(listing.repository, file.name).unlink()

    def _number(self, part: Part) -> int:
        return [step[0] for step in self.steps].index(part)

    def _note(self, part: Part, listing: Listing, files: tuple[RemoteFile, ...]) -> None:
        """Write beside the component where it comes from."""
        content = {
            "source": self.source.name,
            "repository": listing.repository,
            "commit": listing.commit,
            "licence": listing.licence or LICENCES.get(part.repository, ""),
            "files": {file.name: file.sha256 or file.git for file in files},
        }
        write_json(self.folder / part.component / "source.json", content)

    def _check_disk(self) -> None:
        needs, free = self.written + self.largest, shutil.disk_usage(self.folder).free
        if needs > free:
            raise InputError(
                f"{self.row.name} needs up to {needs / 1e9:.2f} GB of disk at {shown(self.folder)}, which has "
                f"{free / 1e9:.2f} GB free: make room, or name another folder with --to"
            )

    def _copy(self, repository: str) -> Path:
        return self.folder / _DOWNLOADS / repository.rpartition("/")[2]

    def _path(self, repository: str, name: str) -> Path:
        return self._copy(repository) / name


def pull(
    name: str,
    source: str = "huggingface",
    folder: str | os.PathLike | None = None,
    revision: str | None = None,
    repositories: Mapping[str, str] | None = None,
) -> Pull:
    """Look up what a published model needs. Nothing is downloaded before `run`.

    Args:
        name: such as "v1.5".
        source: one of SOURCES.
        folder: the model folder; None: where `mindsora.zoo.find` looks for the name.
        revision: branch, tag or commit of the Open-Sora Plan repository; None: its newest.
        repositories: repository on Hugging Face -> its copy at `source`, for those that are not known there.

    Raises:
        InputError: no such model or source; a repository without a known copy; no connection; a file that is not there.
    """
    row = model_row(name)
    if source not in SOURCES:
        raise InputError(f"source = {shown(source)}: must be one of {', '.join(SOURCES)}")
    folder = zoo.pulled(row) if folder is None else Path(folder)
    missing = [part for part in row.parts if not (folder / part.component).exists()]
    hub = SOURCES[source]()
    listings: dict[str, Listing] = {}
    for repository in dict.fromkeys(part.repository for part in missing):
        own = row.parts[0].repository == repository
        listings[repository] = hub.listing(_place(hub, repository, repositories or {}), revision if own else None)
    steps = []
    for part in missing:
        listing = listings[part.repository]
        names = needed(part, listing.files, f"{listing.repository} at {source}")
        steps.append((part, listing, tuple(listing.files[name] for name in names)))
    return Pull(row, folder, hub, tuple(steps))


def _place(hub, repository: str, repositories: Mapping[str, str]) -> str:
    """The name of a repository at a source."""
    place = repositories.get(repository) or hub.repositories.get(repository)
    if place is None and hub.name != "huggingface":
        raise InputError(
            f"no copy of {repository} at {hub.name} is known here: name one with --repository {repository}=OWNER/NAME"
        )
    return place or repository


def named_on_hub(name: str, takes_frames: bool) -> Released | None:
    """The model that a pipeline means by the name of a repository, with or without the folder in it; None: no such name.

    Raises:
        InputError: the repository has several such models, or none.
    """
    rows = [row for row in RELEASED if row.parts]
    here = [row for row in rows if name in (row.parts[0].repository, row.hub_name)]
    if not here:
        return None
    fitting = [row for row in here if zoo.ModelIndex.read(zoo.configuration(row.name)).takes_frames == takes_frames]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(row.hub_name for row in here)
    what = "several models of this kind" if fitting else "no model for this pipeline"
    raise InputError(f"{name} has {what}: name the folder too, one of {names}")


def _size(path: Path) -> int:
    """Bytes of a file that are here, whole or in part."""
    for candidate in (path, path.with_name(path.name + ".part")):
        if candidate.is_file():
            return candidate.stat().st_size
    return 0
