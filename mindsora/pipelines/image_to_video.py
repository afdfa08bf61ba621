"""Frames and text to video, with the inpainting models of Open-Sora Plan v1.3 and v1.2.

The given frames decide the task. None: text to video. The first: image to video. The first and the last: a transition.
The beginning: a continuation. Any frames at other times: the video between them.
"""

from collections.abc import Callable, Iterator, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindsora.models import registry
from mindsora.pipelines.given_frames import GivenFrames, Picture, Time, from_image, given_frames
from mindsora.pipelines.request import Request
from mindsora.pipelines.video_pipeline import VideoOutput, VideoPipeline


class ImageToVideoPipeline(VideoPipeline):
    """Text and given frames to video. VideoPipeline lists its parts."""

    takes_frames = True

    def __call__(
        self,
        prompt: str | Sequence[str],
        images: Sequence[tuple[Picture, Time]] = (),
        video: np.ndarray | Iterator[np.ndarray] | None = None,
        video_fps: float | None = None,
        keep: int | None = None,
        fit: str = "cover",
        noise_strength: float = 0.0,
        size: str | None = None,
        callback_on_step_end: Callable | None = None,
        **options,
    ) -> VideoOutput:
        """Generate clips that show the given frames at their times, all clips the same ones.

            pipe("a cat yawns", images=[("cat.png", 0)])                          # image to video
            pipe("day becomes night", images=[("day.png", 0), ("night.png", -1)]) # transition
            pipe("the train leaves", video=frames, keep=13)                       # continuation

        Args:
            prompt: one or several.
            images, video, video_fps, keep, fit: the given frames, see `mindsora.pipelines.given_frames.given_frames`.
            noise_strength: 0 to 1; standard deviation of noise on the given frames, whose pixels are in [-1, 1]. A
                little noise, such as 0.05, lets the clip depart from them.
            size: "from-image": height and width follow the first picture, as upstream has it where no size is asked for.
            callback_on_step_end, options: negative_prompt, num_frames and so on, as of TextToVideoPipeline; the given
                frames are encoded in tiles too.

        Returns:
            VideoOutput with frames (B, T, H, W, 3).

        Raises:
            InputError: an empty prompt, a value out of range, or frames that cannot be given (see `given_frames`),
                before any work is done.
        """
        if size is not None:
            options |= from_image(self.index, size, images, options)
        request = Request.of(self.index, prompt, **options)
        given = given_frames(request.size, self.index.fps, images, video, video_fps, keep, fit)
        return self.generate(request.showing(self.index, given, noise_strength), callback_on_step_end)

    def encode_frames(self, request: Request) -> Tensor:
        """The denoiser's further channels, (1, c + r, t, h, w): latents of the masked video, then the mask.

        The latents are the posterior's mode, so equal frames give equal clips. The autoencoder runs once per clip and
        in PyNative: compiling a graph takes longer than it saves.
        """
        given = request.given
        if given is None:
            given = GivenFrames(request.size, (), np.zeros((0, *request.size[1:], 3), np.uint8))
        release = registry.spec_of(self.transformer).given_frames
        video = Tensor(given.masked_video(request.noise_strength, request.seed, release))  # (1, 3, T, H, W)
        video = video.astype(next(self.vae.get_parameters()).dtype)
        z = self.vae.encode(video, chunked=True, tile=request.tile).mode()
        z = self.vae.normalise_latents(z.astype(ms.float32))  # (1, c, t, h, w)
        mask = Tensor(given.latent_mask(self.index.vae_stride, release))  # (1, r, t, h, w)
        return ops.concat((z, mask), 1).astype(self._dtype)
