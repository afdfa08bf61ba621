"""The places that weights are published at: Hugging Face, ModelScope, Modelers. Their clients load on first use."""

import errno
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mindsora.errors import InputError, shown

_SILENCE = 60  # seconds without a byte after which a connection counts as broken
_OFFLINE = "copy the files by hand and run `mindsora assemble`"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. sha256: of its bytes; git: its blob id in git, for small files; either may be empty."""

    name: str
    size: int
    sha256: str = ""
    git: str = ""


@dataclass(frozen=True)
class Listing:
    """A repository at one commit. licence: what its card says, or empty."""

    repository: str
    commit: str
    licence: str
    files: dict[str, RemoteFile]


class HuggingFace:
    """https://huggingface.co, or the host of HF_ENDPOINT. HF_TOKEN or `hf auth login` opens private repositories."""

    name = "huggingface"
    repositories: dict[str, str] = {}  # our names are its own

    def __init__(self):
        self.client = importlib.import_module("huggingface_hub")
        # Read at every call: the client itself keeps the value that it had when it was imported.
        self.endpoint = os.environ.get("HF_ENDPOINT") or self.client.constants.ENDPOINT
        self.api = self.client.HfApi(endpoint=self.endpoint)

    def listing(self, repository: str, revision: str | None = None) -> Listing:
        """The files of a repository. InputError: there is none, it is private or gated, or there is no network."""
        with self._clear(repository):
            info = self.api.model_info(repository, revision=revision, files_metadata=True, timeout=_SILENCE)
        files = {
            entry.rfilename: RemoteFile(
                entry.rfilename, entry.size or 0, entry.lfs.sha256 if entry.lfs else "", entry.blob_id or ""
            )
            for entry in info.siblings or []
        }
        licence = (info.card_data.get("license") if info.card_data else None) or ""
        return Listing(repository, info.sha, str(licence), files)

    def download(self, listing: Listing, file: RemoteFile, target: Path) -> None:
        """Append to `target` the bytes of a file that it lacks. InputError: the connection breaks."""
        start = target.stat().st_size if target.exists() else 0
        url = self.client.hf_hub_url(listing.repository, file.name, revision=listing.commit, endpoint=self.endpoint)
        headers = self.client.utils.build_hf_headers() | {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
        session = self.client.utils.get_session()
        with self._clear(listing.repository), session.stream("GET", url, headers=headers, timeout=_SILENCE) as answer:
            self.client.utils.hf_raise_for_status(answer)
            with open(target, "ab" if answer.status_code == 206 else "wb") as out:
                for piece in answer.iter_raw():  # as they come: what is here when it breaks is kept
                    out.write(piece)

    @contextmanager
    def _clear(self, repository: str) -> Iterator[None]:
        """The client's errors as one InputError each."""
        errors = self.client.errors
        try:
            yield
        except errors.GatedRepoError as error:
            raise InputError(
                f"{repository} asks for consent: accept its terms on {self.endpoint}/{repository}, then set HF_TOKEN"
            ) from error
        except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
            raise InputError(f"{repository} at {self.endpoint}: {shown(_first_line(error), quote=False)}") from error
        except errors.HfHubHTTPError as error:
            if error.response.status_code in (401, 404):  # the hub answers 401 for both
                raise InputError(
                    f"{repository} at {self.endpoint} is private or does not exist: set HF_TOKEN, or run `hf auth login`"
                ) from error
            reason = shown(_first_line(error), quote=False)
            raise InputError(f"{self.endpoint} refuses {repository}: {reason}") from error
        except (errors.OfflineModeIsEnabled, errors.HTTPError) as error:  # HTTPError: of the client's HTTP library
            reason = shown(_first_line(error) or type(error).__name__, quote=False)
            raise InputError(
                f"no connection to {self.endpoint} ({reason}): try again, which goes on where it stopped; set HF_ENDPOINT "
                f"for a mirror; or {_OFFLINE}"
            ) from error


class ModelScope:
    """https://modelscope.cn, through the package `modelscope`."""

    name = "modelscope"
    repositories: dict[str, str] = {}

    def __init__(self):
        self.api = _client("modelscope.hub.api", "modelscope", self.name).HubApi()
        self.files = importlib.import_module("modelscope.hub.file_download")

    def listing(self, repository: str, revision: str | None = None) -> Listing:
        """As of HuggingFace; the card's licence is not listed there."""
        revision = revision or "master"
        with _other_errors(self.name, repository):
            entries = self.api.get_model_files(repository, revision=revision, recursive=True)
        files = {
            entry["Path"]: RemoteFile(entry["Path"], entry["Size"], entry.get("Sha256") or "")
            for entry in entries
            if entry["Type"] != "tree"
        }
        return Listing(repository, revision, "", files)

    def download(self, listing: Listing, file: RemoteFile, target: Path) -> None:
        """The client resumes by itself."""
        with _other_errors(self.name, listing.repository):
            got = self.files.model_file_download(
                listing.repository, file.name, revision=listing.commit, local_dir=str(target.parent / ".modelscope")
            )
            os.replace(got, target)


class Modelers:
    """https://modelers.cn, through the package `openmind_hub`."""

    name = "modelers"
    repositories = {"LanguageBind/Open-Sora-Plan-v1.5.0": "PKU-YUAN-Group/Open-Sora-Plan-v1.5.0"}

    def __init__(self):
        self.client = _client("openmind_hub", "openmind_hub", self.name)

    def listing(self, repository: str, revision: str | None = None) -> Listing:
        """As of HuggingFace; the card's licence is not listed there."""
        revision = revision or "main"
        with _other_errors(self.name, repository):
            entries = list(self.client.list_repo_tree(repository, recursive=True, revision=revision))
        files = {
            entry.path: RemoteFile(entry.path, entry.size, getattr(entry.lfs, "sha256", "") if entry.lfs else "")
            for entry in entries
            if hasattr(entry, "size")
        }
        return Listing(repository, revision, "", files)

    def download(self, listing: Listing, file: RemoteFile, target: Path) -> None:
        """The client resumes by itself."""
        with _other_errors(self.name, listing.repository):
            got = self.client.om_hub_download(
                listing.repository, file.name, revision=listing.commit, local_dir=str(target.parent / ".modelers"),
                local_dir_use_symlinks=False,
            )  # fmt: skip
            os.replace(got, target)


SOURCES = {source.name: source for source in (HuggingFace, ModelScope, Modelers)}


def _client(module: str, package: str, source: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"source {source} needs the package {package}: pip install {package} ({error})") from error


@contextmanager
def _other_errors(source: str, repository: str) -> Iterator[None]:
    """Whatever a client raises, as one InputError; a full disk stays an OSError."""
    try:
        yield
    except Exception as error:  # the clients have no common class of errors
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = shown(_first_line(error) or type(error).__name__, quote=False)
        raise InputError(f"{source} gives no {repository}: {reason}; or {_OFFLINE}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")
