"""Published weights by name, from a hub on localhost and from copied files."""

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hub_server import COMMIT, serving
from published import CLIP, MT5, PLAN, T5, publish_v1_3, publish_v1_5

from mindsora import ImageToVideoPipeline, TextToVideoPipeline, cli, list_models, zoo
from mindsora.config import read_json
from mindsora.errors import InputError
from mindsora.hub import assemble, named_on_hub, pull
from mindsora.hub import sources as hub_sources
from mindsora.hub.selection import needed
from mindsora.hub.sources import RemoteFile
from mindsora.models import registry
from mindsora.released import LICENCES, RELEASED, Part, released

V1_5 = PLAN + "v1.5.0"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """Tiny weights of v1.5 and of both models of v1.3."""
    root = tmp_path_factory.mktemp("published")
    publish_v1_5(root)
    publish_v1_3(root, ["t2v", "i2v"])
    return root


@pytest.fixture
def hub(repositories, monkeypatch, tmp_path):
    """The hub, as the client's own variable names it; the user's cache and home are empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serving(repositories) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def refused(call, *words):
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The table


def test_every_model_has_parts_for_all_its_components():
    for row in RELEASED:
        assert bool(row.parts) == row.is_model
        if row.parts:
            index = zoo.ModelIndex.read(zoo.configuration(row.name))
            assert {part.component for part in row.parts} == index.components.keys() - {"scheduler"}
            assert row.hub_name.startswith(row.parts[0].repository)
    assert all(name.startswith(PLAN) for name in LICENCES)


@pytest.mark.parametrize(
    "names, chosen",
    [
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5"], ["model.safetensors"]),
        (["pytorch_model.bin", "flax_model.msgpack", "open_clip_pytorch_model.bin"], ["pytorch_model.bin"]),
        (
            ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"],
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
        ),
        (["diffusion_pytorch_model.safetensors", "sub/model.safetensors"], ["diffusion_pytorch_model.safetensors"]),
        (["merged.ckpt"], ["merged.ckpt"]),
    ],
)
def test_the_files_of_a_folder(names, chosen):
    for source in ("", "any93x640x640"):
        part, start = Part("transformer", "a/b", source), f"{source}/" if source else ""
        listed = [start + name for name in ["config.json", *names]] + ["other/config.json", "other/model.safetensors"]
        assert needed(part, listed, "there") == [start + name for name in ["config.json", *chosen]]


def test_missing_files_of_a_repository():
    for part, names, words in (
        (Part("vae", "a/b", "vae"), ["vae/model.safetensors"], ["'vae/config.json', which vae is made of"]),
        (Part("vae", "a/b", "vae"), ["vae/config.json"], ["no weights of vae in 'vae/'"]),
        (Part("tokenizer", "a/b", files=("spiece.model",)), [], ["there has no 'spiece.model'"]),
        (Part("vae", "a/b", "x.ckpt"), ["y.ckpt"], ["'x.ckpt'"]),
    ):
        refused(lambda part=part, names=names: needed(part, names, "there"), *words)


# Pulling


def test_pull(hub, tmp_path, capsys):
    """v1.5: single files and PyTorch weights become a model folder, which runs; each needed file is fetched once."""
    assert cli.main(["pull", "v1.5", "--dry-run"]) == 0
    said = capsys.readouterr().out
    for words in (
        f"transformer: {V1_5} at {COMMIT[:12]}", "MindSpeed/model_ema.pt", f"licence of {V1_5}: MIT, by the first README",
        f"licence of {T5}: not recorded here; the card says mit", "to download: 0.00",
    ):  # fmt: skip
        assert words in said
    assert not (tmp_path / "cache").exists() and not hub.requests
    assert cli.main(["pull", "v1.5"]) == 2  # nobody is there to answer
    assert "nothing was downloaded: answer y, or say --yes" in capsys.readouterr().err
    assert "v1.5" not in list_models(pretrained=True)

    assert cli.main(["pull", "v1.5", "--yes"]) == 0
    folder = zoo.find("v1.5")
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    names = [name for name, _ in hub.requests]
    assert sorted(names) == sorted(
        ["MindSpeed/model_ema.pt", "MindSpeed/wfvae_888_dim32.ckpt", "spiece.model", "vocab.json", "merges.txt",
         "special_tokens_map.json", *["config.json", "pytorch_model.bin"] * 2]
    )  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {*zoo.ModelIndex.read(folder).components, "model_index.json"}
    note = read_json(folder / "transformer" / "source.json")
    assert (note["source"], note["repository"], note["commit"]) == ("huggingface", V1_5, COMMIT)
    assert len(note["files"]["MindSpeed/model_ema.pt"]) == 64
    assert "v1.5" in list_models(pretrained=True)
    pipe = TextToVideoPipeline.from_pretrained("v1.5", jit="off")
    assert pipe.index == zoo.ModelIndex.read(zoo.configuration("v1.5"))

    assert cli.main(["pull", "v1.5", "--yes"]) == 0
    assert "nothing to download" in capsys.readouterr().out and len(hub.requests) == len(names)


@pytest.mark.full
def test_a_repository_by_name(hub, capsys):
    """The class of the pipeline says which of a release's models is meant."""
    pipe = TextToVideoPipeline.from_pretrained(PLAN + "v1.3.0", jit="off")
    said = capsys.readouterr().err
    assert "licence of LanguageBind/Open-Sora-Plan-v1.3.0: MIT" in said and "transformer: OpenSoraT2V" in said
    pipe.set_progress_bar_config(disable=True)
    size = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 1}
    assert pipe("a cat", **size).frames.shape == (1, 5, 16, 16, 3)
    downloads = len(hub.requests)
    TextToVideoPipeline.from_pretrained(PLAN + "v1.3.0/any93x640x640", jit="off")
    assert len(hub.requests) == downloads and not capsys.readouterr().err
    image = ImageToVideoPipeline.from_pretrained(PLAN + "v1.3.0", jit="off")
    assert registry.spec_of(image.transformer).name == "OpenSoraInpaint"


def test_names_on_the_hub():
    assert named_on_hub(V1_5, False) is released("v1.5")
    assert named_on_hub(PLAN + "v1.3.0", True) is released("v1.3_i2v")
    assert named_on_hub(PLAN + "v1.2.0", True) is released("v1.2_93x480p_i2v")
    assert named_on_hub("nano", False) is None and named_on_hub("google/mt5-xxl", False) is None
    refused(lambda: named_on_hub(PLAN + "v1.2.0", False), "several models of this kind", PLAN + "v1.2.0/29x720p")
    refused(lambda: named_on_hub(V1_5, True), "no model for this pipeline")


@pytest.mark.full
def test_only_one_component_is_there_twice(hub, tmp_path, monkeypatch):
    """While a component is converted, the files of the earlier ones are gone."""
    seen = []

    def report(line):
        left = files_of(tmp_path / "model" / ".download")
        seen.append((line.split(":")[0], sorted(Path(name).name for name in left)))

    pull("v1.5", folder=tmp_path / "model").run(report)
    assert seen[:2] == [("transformer", ["model_ema.pt"]), ("vae", ["wfvae_888_dim32.ckpt"])]
    assert dict(seen)["text_encoder"] == ["config.json", "pytorch_model.bin"]


def test_an_interrupted_download_goes_on(hub, tmp_path):
    name = "MindSpeed/model_ema.pt"
    size = (hub.root / V1_5 / name).stat().st_size
    hub.breaks[name] = 5000
    asked = pull("v1.5", folder=tmp_path / "model")
    refused(asked.run, "no connection to", "goes on where it stopped", "mindsora assemble")
    part = tmp_path / "model/.download/Open-Sora-Plan-v1.5.0" / f"{name}.part"
    assert part.stat().st_size == 5000 and not (tmp_path / "model/model_index.json").exists()
    refused(lambda: TextToVideoPipeline.from_pretrained(tmp_path / "model"), "no model_index.json")
    again = pull("v1.5", folder=tmp_path / "model")
    assert again.download == asked.download == pull("v1.5", folder=tmp_path / "other").download - 5000
    again.run()
    assert [start for file, start in hub.requests if file == name] == [0, 5000] and size > 5000
    other = pull("v1.5", folder=tmp_path / "other").run()
    assert files_of(tmp_path / "model") == files_of(other)


def test_wrong_bytes_are_removed(hub, tmp_path):
    for name in ("MindSpeed/model_ema.pt", "config.json"):  # by sha256, and by git's id
        hub.wrong = {name}
        asked = pull("v1.5", folder=tmp_path / "model")
        refused(asked.run, f"{name} of ", "has other bytes than the hub lists", "removed")
        assert not list((tmp_path / "model").rglob("*.part"))
        assert (tmp_path / "model/transformer").exists() == (name == "config.json")
    hub.wrong = set()
    pull("v1.5", folder=tmp_path / "model").run()


def test_a_full_disk(hub, tmp_path, monkeypatch):
    asked = pull("v1.5", folder=tmp_path / "model")
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 10, 10))
        refused(asked.run, "v1.5 needs up to 4", "0.00 GB free", "--to")
    assert not hub.requests

    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 10**12))

    def full(self, listing, file, target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub_sources.HuggingFace, "download", full)
    refused(asked.run, "the disk of ", "is full: MindSpeed/model_ema.pt has", "goes on where it stopped")


def test_no_network(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port that discards
    refused(lambda: pull("v1.5"), "no connection to http://127.0.0.1:9", "HF_ENDPOINT", "mindsora assemble")


def test_private_gated_and_missing_repositories(hub, monkeypatch):
    hub.private = {V1_5}
    refused(lambda: pull("v1.5"), f"{V1_5} at {hub.url} is private or does not exist", "HF_TOKEN", "hf auth login")
    hub.private, hub.gated = set(), {V1_5}
    refused(lambda: pull("v1.5"), f"{V1_5} asks for consent: accept its terms on {hub.url}/{V1_5}")
    refused(lambda: pull("v1.2_93x720p"), "is private or does not exist")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["pull", "v1.0", "--yes"], ["no published model 'v1.0': must be one of v1.5, v1.3"]),
        (["pull", "nano"], ["no published model 'nano'"]),
        (["pull", "v1.5", "--source", "nowhere"], ["--source", "huggingface"]),
        (["pull", "v1.5", "--repository", "x"], ["must be OWNER/NAME=OWNER/NAME"]),
        (["assemble", "v1.5", "--from", "absent"], ["'absent' is no folder"]),
        (
            ["generate", "a", "--model", PLAN + "v1.3.0", "--output", "a.mp4"],
            ["is a repository: `mindsora pull NAME`, then NAME, one of v1.3, v1.3_i2v"],
        ),
    ],
)
def test_commands_refuse(hub, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


def test_one_process_at_a_time(hub, tmp_path):
    asked, again = (pull("v1.5", folder=tmp_path / "model") for _ in range(2))
    asked.run(lambda line: refused(again.run, "is being written by another process"))


# Other places, with stand-ins that have the signatures of modelscope 1.40 and openmind_hub 1.3


def copy_of(hub, repository, file, local_dir):
    target = Path(local_dir) / file
    target.parent.mkdir(parents=True, exist_ok=True)
    return str(shutil.copy(hub.root / repository / file, target))


def modules(hub, ours: dict[str, str]) -> dict:
    """sys.modules with both clients. ours: the name of a repository there -> its folder."""
    listed = {there: hub.listing(here)["siblings"] for there, here in ours.items()}

    class HubApi:
        def get_model_files(self, model_id, revision=None, root=None, recursive=True, **kwargs):
            if model_id not in listed:
                raise ValueError(f"{model_id} is not there")
            entries = [
                {"Path": e["rfilename"], "Size": e["size"], "Type": "blob", "Sha256": e.get("lfs", {}).get("sha256")}
                for e in listed[model_id]
            ]
            return [*entries, {"Path": "vae", "Size": 0, "Type": "tree"}]

    def model_file_download(model_id, file_path, revision=None, *, cache_dir=None, local_dir=None, **kwargs):
        return copy_of(hub, ours[model_id], file_path, local_dir)

    lfs = namedtuple("BlobLfsInfo", "size sha256")
    entry = namedtuple("RepoFile", "path size lfs")
    folder = namedtuple("RepoFolder", "path")

    def list_repo_tree(repo_id, path_in_repo=None, *, recursive=False, revision=None, token=None, **kwargs):
        for e in listed[repo_id]:
            yield entry(e["rfilename"], e["size"], e.get("lfs") and lfs(e["size"], e["lfs"]["sha256"]))
        yield folder("vae")

    def om_hub_download(repo_id, filename, *, revision=None, local_dir=None, local_dir_use_symlinks="auto", **kwargs):
        return copy_of(hub, ours[repo_id], filename, local_dir)

    class Module:
        def __init__(self, **content):
            vars(self).update(content)

    return {
        "modelscope": Module(),
        "modelscope.hub": Module(),
        "modelscope.hub.api": Module(HubApi=HubApi),
        "modelscope.hub.file_download": Module(model_file_download=model_file_download),
        "openmind_hub": Module(list_repo_tree=list_repo_tree, om_hub_download=om_hub_download),
    }


@pytest.mark.full
@pytest.mark.parametrize("source", ["modelscope", "modelers"])
def test_other_places(hub, tmp_path, monkeypatch, source):
    known = hub_sources.SOURCES[source].repositories
    there = {repository: known.get(repository, f"mirror/{repository.split('/')[1]}") for repository in (V1_5, T5, CLIP)}
    for name, module in modules(hub, {copy: ours for ours, copy in there.items()}).items():
        monkeypatch.setitem(sys.modules, name, module)
    refused(lambda: pull("v1.5", source), f"no copy of {next(r for r in there if r not in known)} at {source}",
            "--repository")  # fmt: skip
    result = pull("v1.5", source, tmp_path / "model", repositories=there).run()
    expected = pull("v1.5", folder=tmp_path / "other").run()
    weights = [{name: data for name, data in files_of(folder).items() if "source.json" not in name}
               for folder in (result, expected)]  # fmt: skip
    assert weights[0] == weights[1]
    note = read_json(result / "vae" / "source.json")
    assert (note["source"], note["repository"]) == (source, there[V1_5])


@pytest.mark.parametrize("source, package", [("modelscope", "modelscope"), ("modelers", "openmind_hub")])
def test_a_client_that_is_not_installed(monkeypatch, source, package):
    monkeypatch.setitem(sys.modules, package, None)
    refused(lambda: pull("v1.5", source), f"source {source} needs the package {package}: pip install {package}")


# Copied files


def copied(repositories: Path, folder: Path, *names: str) -> Path:
    for name in names:
        shutil.copytree(repositories / name, folder / name.split("/")[1])
    return folder


def test_assemble_equals_pull(hub, repositories, tmp_path, capsys):
    files = copied(repositories, tmp_path / "copies", PLAN + "v1.3.0", MT5)
    arguments = ["assemble", "v1.3_i2v", "--from", str(files), "--to", str(tmp_path / "model")]
    assert cli.main(arguments) == 0
    assert "transformer: OpenSoraInpaint" in capsys.readouterr().out
    expected = files_of(pull("v1.3_i2v", folder=tmp_path / "pulled").run())
    assert files_of(tmp_path / "model") == {k: v for k, v in expected.items() if not k.endswith("source.json")}
    assert not hub.requests or cli.main(arguments) == 0  # again: every component is there
    assert capsys.readouterr().out.count(": is there") == 4


def test_assemble_names_all_that_is_missing(hub, repositories, tmp_path):
    files = copied(repositories, tmp_path / "copies", V1_5, T5)
    (files / "t5-v1_1-xl" / "spiece.model").unlink()
    (files / "Open-Sora-Plan-v1.5.0/MindSpeed/wfvae_888_dim32.ckpt").unlink()
    refused(
        lambda: assemble("v1.5", files, tmp_path / "model"), "'MindSpeed/wfvae_888_dim32.ckpt', which vae", "spiece.model",
        "CLIP-ViT-bigG-14-laion2B-39B-b160k has no 'config.json', which text_encoder_2",
    )  # fmt: skip
    assert not (tmp_path / "model").exists()


@pytest.mark.full
def test_a_killed_pull_goes_on(hub, tmp_path):
    """The program is killed while it downloads; the next one ends with the files of an unbroken one."""
    name = "MindSpeed/model_ema.pt"
    command = [sys.executable, "-m", "mindsora.cli", "pull", "v1.5", "--yes", "--to", str(tmp_path / "model")]
    killed = """
import os
from mindsora import cli
from mindsora.hub import download
check = download._check
def kill(listing, file, part):
    if file.name == "pytorch_model.bin":
        os.truncate(part, 1000)
        os.kill(os.getpid(), 9)
    check(listing, file, part)
download._check = kill
cli.main(["pull", "v1.5", "--yes", "--to", os.environ["MODEL"]])
"""
    done = subprocess.run([sys.executable, "-c", killed], env=os.environ | {"MODEL": str(tmp_path / "model")})
    assert done.returncode == -9
    subprocess.run(command, check=True, capture_output=True)
    assert [start for file, start in hub.requests if file == "pytorch_model.bin"][:2] == [0, 1000]
    assert [start for file, start in hub.requests if file == name] == [0]
    assert files_of(tmp_path / "model") == files_of(pull("v1.5", folder=tmp_path / "other").run())


def test_a_short_answer_is_an_interruption(hub, tmp_path, monkeypatch):
    def short(self, listing, file, target):
        target.write_bytes(np.zeros(10, np.uint8).tobytes())

    monkeypatch.setattr(hub_sources.HuggingFace, "download", short)
    asked = pull("v1.5", folder=tmp_path / "model")
    refused(asked.run, "model_ema.pt of", "stopped after 10 of", "goes on from there")
    assert isinstance(asked.steps[0][2][0], RemoteFile)
