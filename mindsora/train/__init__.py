"""Training: recipes, methods, the compiled step, checkpoints, and the loop they run in."""

from pathlib import Path

HELD_OUT_CLIPS = 64  # clips on which an autoencoder is evaluated


def train(recipe, reshuffle: bool = False) -> None:
    """Train the model of a recipe, or resume the run in its folder.

    Under msrun every rank calls it, after `Runtime.apply`.

    Args:
        recipe: from `recipe.load_recipe`.
        reshuffle: resume a run that had another batch or accumulation, with other batches from there on.
    """
    # Import here: these modules import MindSpore, which reads the settings of `Runtime.apply` on import.
    from mindsora.data.clips import open_clips
    from mindsora.data.toy.source import ProceduralClips
    from mindsora.data.windows import Mixed, Windows
    from mindsora.parallel.layout import Layout, mesh_of
    from mindsora.train import loop
    from mindsora.train.checkpoint import Identity
    from mindsora.train.methods import adversarial, autoencoder, flow_matching, inpainting, stage
    from mindsora.train.recipe import fingerprint

    if recipe.task == "adversarial_vae":
        mesh_of(Layout())  # refuses msrun: the two networks take turns on one card
        identity = Identity(fingerprint(recipe), recipe.data.batch, seed=recipe.run.seed)
        loop.train(adversarial.prepare(recipe), recipe.optimizer, recipe.run, identity, reshuffle)
        return
    data, mesh = recipe.data, mesh_of(Layout(dp=recipe.parallel.dp))
    if recipe.task == "stage":
        clips = open_clips(data, recipe.line)
        task = stage.prepare(recipe, clips, mesh)
    else:
        clips = ProceduralClips(data.clips, data.frames, data.size)
    if recipe.task == "vae":
        if data.folder is not None:
            clips = Mixed(clips, Windows(data.clips, data.frames, data.size, Path(data.folder)), data.real)
        held_out = ProceduralClips(HELD_OUT_CLIPS, data.frames, data.size, split="heldout")
        task = autoencoder.prepare(recipe, clips, held_out, mesh)
    elif recipe.task == "inpaint":
        task = inpainting.prepare(recipe, clips, mesh)
    elif recipe.task == "denoiser":
        task = flow_matching.prepare(recipe, clips, mesh)
    accumulate, seed = recipe.optimizer.accumulate, recipe.run.seed
    identity = Identity(fingerprint(recipe), data.batch, accumulate, mesh.dp.size, seed, epoch=len(clips))
    loop.train(task, recipe.optimizer, recipe.run, identity, reshuffle, mesh.world)
