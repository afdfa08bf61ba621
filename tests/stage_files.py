"""Small real files for trainings of stages: videos and pictures with captions, a merge file, and recipes that use them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mindsora import export_to_video
from mindsora.train.recipe import StageRecipe, load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
FPS = 8


def write_files(folder: Path, videos: int = 4, pictures: int = 0, frames: int = 20, size: int = 40) -> Path:
    """Write noisy moving videos and pictures, an annotation file and a merge file, which is returned."""
    rng, records = np.random.default_rng(0), []
    for number in range(videos + pictures):
        still = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
        record = {"cap": [f"noise number {number}", "noise"], "resolution": {"height": size, "width": size}}
        if number < videos:
            path = f"{number}.mp4"
            clip = np.stack([np.roll(still, frame, axis=1) for frame in range(frames)])
            export_to_video(clip / np.float32(255), folder / path, fps=FPS)
            record |= {"num_frames": frames, "fps": FPS}
        else:
            path = f"{number}.png"
            Image.fromarray(still).save(folder / path)
        records.append(record | {"path": path})
    (folder / "clips.jsonl").write_text("\n".join(map(json.dumps, records)))
    (folder / "merge.txt").write_text(f"{folder},{folder / 'clips.jsonl'}")
    return folder / "merge.txt"


def tiny(line: str, name: str, folder: Path, encoders: Path, *more: str) -> StageRecipe:
    """A stage's recipe with a network and clips of a few numbers."""
    small = {
        "v1_5": [
            "transformer.num_layers=[2,2,2]",
            "transformer.sparse_n=[1,2,1]",
            "transformer.num_heads=2",
            "transformer.head_dim=16",
            "transformer.timestep_embed_dim=32",
        ],
        "v1_3": [
            "transformer.num_layers=3",
            "transformer.num_attention_heads=2",
            "transformer.attention_head_dim=12",
        ],
    }[line]
    common = [
        f"data.merge_file={folder / 'merge.txt'}",
        "data.size=[32,32]",
        "data.max_pixels=null",
        "data.pixel_stride=16",
        f"data.fps={FPS}",
        "data.min_frames=9",
        "data.min_bucket_batches=0",
        "data.batch=2",
        "data.workers=1",
        "optimizer.lr=1e-3",
        "optimizer.accumulate=1",
        "run.steps=2",
        "run.log_every=1",
        "run.precision=float32",
        "run.recompute=0",
        "run.init=null",
        "run.new_parameters=[]",
        f"run.out={folder / 'out'}",
        f"run.export={folder / 'model'}",
        f"encoders={encoders}",
    ]
    recipe = load_recipe(RECIPES / line / "train" / f"{name}.yaml", [*small, *common, *more])
    assert isinstance(recipe, StageRecipe)
    return recipe
