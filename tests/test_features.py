"""What a feature cache stores and a training looks up: windows of files, texts, and their features."""

import random

from mindsora.data.annotations import Clip
from mindsora.data.captions import all_captions, draw_caption
from mindsora.data.clips import ClipSet
from mindsora.data.filtering import Dropped
from mindsora.data.settings import VideoData


def test_windows_are_chosen_once():
    data = VideoData("none", 9, size=(32, 32), min_frames=9, fps=8, windows=3)
    clip = Clip("folder/film.mp4", ("a film",), 64, 64, num_frames=100, fps=8.0)
    moved = ClipSet([clip._replace(path="elsewhere/film.mp4")], ["9x32x32"], Dropped(), data, "v1.5")
    clips = ClipSet([clip], ["9x32x32"], Dropped(), data, "v1.5")
    windows = {tuple(clips.window(0, number)) for number in range(3)}
    drawn = {tuple(moved.frame_numbers(0, random.Random(seed))) for seed in range(100)}
    assert drawn == windows and len(windows) == 3 and all(len(window) == 9 for window in windows)


def test_all_captions_are_those_that_can_be_drawn():
    clip = Clip("film.mp4", ("A Film", "a dog"), 64, 64, num_frames=100, fps=8.0, aesthetic=6.0)
    for aesthetic, notices in ((6.0, 20), (4.0, 20), (5.0, 1), (None, 1)):
        for notice in (True, False):
            data = VideoData("none", 9, size=(32, 32), aesthetic_notice=notice, caption_drop=0.0)
            scored, rng = clip._replace(aesthetic=aesthetic), random.Random(0)
            drawn = {draw_caption(scored, data, rng) for _ in range(1500)}
            assert drawn == set(all_captions(scored, data)) and len(drawn) == 2 * (notices if notice else 1)
