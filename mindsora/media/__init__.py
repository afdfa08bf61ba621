"""Videos and pictures: reading, writing, contact sheets, PSNR, SSIM. Clips are (T, H, W, 3), uint8 or float in [0, 1]."""

from mindsora.media.measures import psnr, ssim
from mindsora.media.pictures import Picture, read_picture
from mindsora.media.pixels import MAX_PIXELS, check_pixels, to_uint8
from mindsora.media.reading import VideoFacts, probe_video, read_frames, read_video, stream_video
from mindsora.media.sheet import SHEET_FRAMES, SHEETS, contact_sheet, picked, spread
from mindsora.media.writing import check_output, export_to_gif, export_to_video, save_image, write_clip

__all__ = [
    "MAX_PIXELS",
    "Picture",
    "SHEETS",
    "SHEET_FRAMES",
    "VideoFacts",
    "check_output",
    "check_pixels",
    "contact_sheet",
    "export_to_gif",
    "export_to_video",
    "picked",
    "probe_video",
    "psnr",
    "read_frames",
    "read_picture",
    "read_video",
    "save_image",
    "spread",
    "ssim",
    "stream_video",
    "to_uint8",
    "write_clip",
]
