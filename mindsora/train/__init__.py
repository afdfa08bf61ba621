"""Training: recipes, the compiled step, checkpoints, and the loop they run in."""


def train(recipe) -> None:
    """Train what a recipe asks for, or go on with the run in its folder. recipe: from `recipe.load_recipe`."""
    # Imported here: these modules import MindSpore, which reads the settings of `Runtime.apply` when it is imported.
    if recipe.task == "vae":
        from mindsora.train.vae import train_vae as start
    elif recipe.task == "inpaint":
        from mindsora.train.inpaint import train_inpaint as start
    else:
        from mindsora.train.denoiser import train_denoiser as start
    start(recipe)
