"""Text to video, as Open-Sora Plan v1.5 and v1.3 do it."""

from collections.abc import Callable, Sequence

import numpy as np
from mindspore import Tensor

from mindsora.pipelines.prepared import Rng
from mindsora.pipelines.video_pipeline import VideoOutput, VideoPipeline


class TextToVideoPipeline(VideoPipeline):
    """Text to video. VideoPipeline lists its parts."""

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: int | Rng | None = None,
        latents: np.ndarray | Tensor | None = None,
        *,
        guidance_rescale: float | None = None,
        seed: int = 0,
        tile: int | None = None,
        solver: str | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **embeds: np.ndarray | Tensor,
    ) -> VideoOutput | tuple:
        """Generate clips. An argument that is None takes the model's default. diffusers' names, in diffusers' order.

        Clip i (prompt-major) starts from the noise of seed + i and runs by itself. It equals, byte for byte, the clip
        of a call with its prompt alone and seed + i, and the number of clips compiles nothing new.

        Args:
            prompt: one or several, or None with `embeds`.
            negative_prompt: text to steer away from, added to the template's own; one for all, or one per prompt.
            height, width, num_frames: see `index.shapes`.
            num_inference_steps: 1 to 1000.
            guidance_scale: above 1 runs the denoiser on the negative prompt too and moves away from it.
            generator: a whole number is a seed. NumPy's draws the noise of one clip after the other, in place of the seed,
                and moves on: a second call gives other clips.
            latents: unit noise of the clips, (clips, c, t, h, w), in place of the noise of the seed.
            guidance_rescale: share of the guided result brought back to the unguided spread, 0 to 1.
            seed: 0 to 2**32 - 1.
            output_type: "np", "pil", "ms" or "latent", see VideoOutput.
            return_dict: False returns the plain tuple (frames,).
            tile: side in pixels of the autoencoder's square tiles, a multiple of 8: less memory, nearly the same frames
                (docs/tiling.md). None: whole frames.
            solver: "dpmpp_2m" for DPM-Solver++(2M), of second order (docs/solvers.md); None: the scheduler's own, which is
                upstream's.
            callback_on_step_end: called as (pipe, step, timestep, {"latents": x}) after each step; denoising goes on
                from the latents of the dict that it returns, if it returns one.
            callback_on_step_end_tensor_inputs: names in that dict; there are only "latents".
            embeds: encoded prompts in place of texts: prompt_embeds (P, L, C), prompt_attention_mask (P, L), with guidance
                negative_prompt_embeds and negative_prompt_attention_mask, and for v1.5 pooled_prompt_embeds (P, C2) and
                negative_pooled_prompt_embeds. `encode_prompt(...).arguments()` gives them.

        Returns:
            VideoOutput with frames (B, T, H, W, 3).

        Raises:
            InputError: an empty prompt, a value out of range, or an argument that is not here (the message says what to
                write instead), before any work is done.
        """
        request = self.request(
            prompt, negative_prompt=negative_prompt, height=height, width=width, num_frames=num_frames,
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, generator=generator, latents=latents,
            num_videos_per_prompt=num_videos_per_prompt, guidance_rescale=guidance_rescale, seed=seed, tile=tile,
            output_type=output_type, solver=solver, **embeds,
        )  # fmt: skip
        return self.generate(request, callback_on_step_end, callback_on_step_end_tensor_inputs, return_dict)
