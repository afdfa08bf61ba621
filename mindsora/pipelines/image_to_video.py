"""Frames and text to video, with the inpainting models of Open-Sora Plan v1.3 and v1.2.

The given frames decide the task. None: text to video. The first: image to video. The first and the last: a transition.
The beginning: a continuation. Any frames at other times: the video between them.
"""

from collections.abc import Callable, Iterator, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindsora.errors import InputError, shown
from mindsora.models import registry
from mindsora.pipelines.given_frames import GivenFrames, Picture, Time, from_image, given_frames
from mindsora.pipelines.request import Request
from mindsora.pipelines.video_pipeline import VideoOutput, VideoPipeline


class ImageToVideoPipeline(VideoPipeline):
    """Text and given frames to video. VideoPipeline lists its parts."""

    takes_frames = True

    def __call__(
        self,
        image: Picture | None = None,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        *,
        last_image: Picture | None = None,
        images: Sequence[tuple[Picture, Time]] = (),
        video: np.ndarray | Iterator[np.ndarray] | None = None,
        video_fps: float | None = None,
        keep: int | None = None,
        fit: str = "cover",
        noise_strength: float = 0.0,
        size: str | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **options,
    ) -> VideoOutput | tuple:
        """Generate clips that show the given frames at their times, all clips the same ones. diffusers' order: image first.

            pipe("cat.png", "a cat yawns")                                             # image to video
            pipe("day.png", "day becomes night", last_image="night.png")               # transition
            pipe(prompt="the train leaves", video=frames, keep=13)                     # continuation
            pipe(prompt="the sun comes out", images=[("a.png", 0), ("b.png", "1.5s")]) # any frames

        Args:
            image, last_image: the first frame and the last; short for `images=[(image, 0), (last_image, -1)]`.
            prompt: one or several, or None with prompt_embeds.
            images, video, video_fps, keep, fit: the given frames, see `mindsora.pipelines.given_frames.given_frames`.
            noise_strength: 0 to 1; standard deviation of noise on the given frames, whose pixels are in [-1, 1]. A
                little noise, such as 0.05, lets the clip depart from them.
            size: "from-image": height and width follow the first picture, as upstream has it where no size is asked for.
            return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs, options: num_inference_steps and so
                on, as of TextToVideoPipeline; the given frames are encoded in tiles too.

        Returns:
            VideoOutput with frames (B, T, H, W, 3).

        Raises:
            InputError: an empty prompt, a value out of range, frames that cannot be given (see `given_frames`), or an
                argument that is not here, before any work is done.
        """
        if prompt is None and isinstance(image, str) and "prompt_embeds" not in options:
            raise InputError(
                f"no prompt, and {shown(image)} as image: the image comes first, as in diffusers; write "
                "pipe(image, prompt), or pipe(prompt=...) with images or a video"
            )
        images = _with_ends(images, image, last_image)
        options |= {"height": height, "width": width, "num_frames": num_frames}
        if size is not None:
            options |= from_image(self.index, size, images, options)
        request = self.request(prompt, negative_prompt=negative_prompt, **options)
        given = given_frames(request.size, self.index.fps, images, video, video_fps, keep, fit)
        request = request.showing(self.index, given, noise_strength)
        return self.generate(request, callback_on_step_end, callback_on_step_end_tensor_inputs, return_dict)

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


def _with_ends(
    images: Sequence[tuple[Picture, Time]], image: Picture | None, last_image: Picture | None
) -> Sequence[tuple[Picture, Time]]:
    """The pictures and times of a call. InputError: `images` beside `image` or `last_image`."""
    ends = [(picture, time) for picture, time in ((image, 0), (last_image, -1)) if picture is not None]
    if ends and len(images):
        name = "last_image" if image is None else "image"
        raise InputError(f"{name} and images are both given: put the picture in images, with its time")
    for picture, _ in ends:
        if isinstance(picture, (list, tuple)):
            raise InputError("image takes one picture; give several with their times: images=[(picture, time), ...]")
    return ends or images
