"""Text to video, as Open-Sora Plan v1.5 and v1.3 do it."""

from collections.abc import Callable, Sequence

from mindsora.pipelines.request import Request
from mindsora.pipelines.video_pipeline import VideoOutput, VideoPipeline


class TextToVideoPipeline(VideoPipeline):
    """Text to video. VideoPipeline lists its parts."""

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        num_videos_per_prompt: int = 1,
        seed: int = 0,
        output_type: str = "np",
        tile: int | None = None,
        callback_on_step_end: Callable | None = None,
    ) -> VideoOutput:
        """Generate clips. An argument that is None takes the model's default.

        Clip i (prompt-major) starts from the noise of seed + i and runs by itself. It equals, byte for byte, the clip
        of a call with its prompt alone and seed + i, and the number of clips compiles nothing new.

        Args:
            prompt: one or several.
            negative_prompt: text to steer away from, added to the template's own; one for all, or one per prompt.
            num_frames, height, width: see `index.shapes`.
            num_inference_steps: 1 to 1000.
            guidance_scale: above 1 runs the denoiser on the negative prompt too and moves away from it.
            guidance_rescale: share of the guided result brought back to the unguided spread, 0 to 1.
            seed: 0 to 2**32 - 1.
            output_type: "np" for float32 frames in [0, 1]; "latent" for latents, not decoded.
            tile: side in pixels of the autoencoder's square tiles, a multiple of 8: less memory, nearly the same frames
                (docs/tiling.md). None: whole frames.
            callback_on_step_end: called as (pipe, step, timestep, {"latents": x}) after each step; denoising goes on
                from the latents of the dict that it returns, if it returns one.

        Returns:
            VideoOutput with frames (B, T, H, W, 3).

        Raises:
            InputError: an empty prompt or a value out of range, before any work is done.
        """
        request = Request.of(
            self.index, prompt, negative_prompt, num_frames, height, width, num_inference_steps, guidance_scale,
            guidance_rescale, num_videos_per_prompt, seed, output_type, tile,
        )  # fmt: skip
        return self.generate(request, callback_on_step_end)
