"""`mindsora rerun`: make a file again from its manifest and compare."""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import mindsora
from mindsora import manifest, runtime, zoo
from mindsora.audit.diff import differences, file_psnr
from mindsora.config import from_dict
from mindsora.errors import InputError
from mindsora.generate import made, suffix_of
from mindsora.pipelines.given_files import GivenFiles
from mindsora.runtime import Runtime


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options that `run` reads."""
    parser.add_argument("manifest", metavar="FILE.json", help="as `mindsora generate` wrote it")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="keep the new file here, and its manifest beside it (default: it is compared and dropped)",
    )
    parser.add_argument("--model", metavar="NAME|DIR", help="where the model is now (default: as the manifest says)")
    parser.add_argument("--device", choices=["Ascend", "CPU"], help="default: as the manifest says")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Generate and compare; exit status 0 only where the frames are identical, whatever computed them."""
    told = manifest.read(args.manifest)
    asked, then = told["request"], told["stack"]
    model = args.model or asked["model"]
    folder = zoo.find(model)
    index = zoo.ModelIndex.read(folder)
    clip = clip_of(index, asked)
    policy = from_dict(Runtime, then["runtime"] | {"device": args.device or then["device"].get("name")})

    original = Path(args.manifest).with_name(told["file"])
    suffix = suffix_of(clip)
    output = _checked(args.output, suffix, original, Path(args.manifest)) if args.output else None
    policy.apply()

    start = time.perf_counter()
    pipeline, offload = getattr(mindsora, index.pipeline), bool(then.get("offload"))
    pipe = pipeline.from_pretrained(model, dtype=asked["dtype"], jit=policy.jit, offload=offload)
    pipe.set_progress_bar_config(disable=args.quiet or runtime.rank() > 0)
    shared = {
        "command": args.command,
        "prompts": len(clip.prompts),
        "seeds": [clip.seed],
        "contact_sheet": None,
        "rerun_of": {"file": told["file"], "run": told.get("run")},
    }
    recorder = manifest.Recorder(model, asked["dtype"], folder, pipe, policy, shared, time.perf_counter() - start)
    ((pieces, drift),) = made(pipe, [clip])
    with tempfile.TemporaryDirectory() as temporary:
        path = output or Path(temporary) / f"again{suffix}"
        again = manifest.read(recorder.write(path, clip, pieces, drift, given=asked.get("given")))
        identical = again["result"]["frames_sha256"] == told["result"].get("frames_sha256")
        changed = differences(then, again["stack"])
        for line in changed:
            print(f"stack.{line}")
        if identical:
            print(
                f"identical: frames sha256 {told['result']['frames_sha256']}"
                + (", although the stack differs as listed" if changed else "")
            )
        else:
            print(
                f"not identical: {'the stack differs as listed' if changed else 'on the same stack'}; "
                f"{file_psnr(original, path)}"
            )
    if output:
        print(output)
    sys.stdout.flush()
    return 0 if identical else 1


def _checked(output: str, suffix: str, original: Path, told: Path) -> Path:
    """The output path; InputError also where it, or the manifest beside it, would replace what it is compared with."""
    from mindsora.media import check_output

    if Path(output).resolve() == original.resolve() or manifest.beside(output).resolve() == told.resolve():
        another = original.with_name(f"{original.stem}-again{suffix}")
        raise InputError(
            f"--output {output!r} would replace what the new file is compared with; name another, such as "
            f"{str(another)!r}"
        )
    return check_output(output, [suffix])


def clip_of(index: zoo.ModelIndex, asked: dict):
    """The Request or the LongVideo that a manifest's `request` asks for, with what it was given."""
    request, files = manifest.request_of(index, asked), GivenFiles.from_record(asked.get("given"))
    given, told = files.read(index, request.size), asked.get("long_video")
    if told is None:
        return request.showing(index, given, files.noise_strength)
    from mindsora.pipelines.long_video import LongVideo

    try:
        shots = tuple(told["prompts"])
        request = replace(request, prompts=shots, negatives=request.negatives * len(shots))
        request = request.showing(index, given)
        return LongVideo.lasting(index, request, told["duration"], told["overlap"], told["noise_strength"])
    except (KeyError, TypeError) as error:
        raise InputError(f"request.long_video of the manifest is not as `generate` writes it: {told}") from error
