"""Windows of real videos and pictures: a function of their number, inside the files, moving over pictures alone."""

import numpy as np
import pytest
from PIL import Image

from mindsora.data.windows import MAX_SHORT_SIDE, Mixed, Windows
from mindsora.errors import InputError
from mindsora.media import export_to_video


@pytest.fixture
def folder(tmp_path):
    """A video whose brightness is its frame's number, and a picture whose colours are its places."""
    video = np.zeros((20, 48, 64, 3), np.uint8) + (10 * np.arange(20, dtype=np.uint8))[:, None, None, None]
    export_to_video(video, tmp_path / "b.mp4", 25)
    rows, columns = np.mgrid[:100, :120].astype(np.uint8)
    Image.fromarray(np.stack((2 * rows, 2 * columns, 0 * rows), -1)).save(tmp_path / "a.png")
    return tmp_path


def windows(folder, **more) -> Windows:
    return Windows(**{"clips": 40, "frames": 9, "size": 32, "folder": folder} | more)


def test_a_window_is_a_function_of_its_number(folder):
    first, second = windows(folder), windows(folder)
    for index in (5, 0, 5):
        np.testing.assert_array_equal(first.video(index), second.video(index))
    assert first.identity() == second.identity() != windows(folder, seed=1).identity()
    assert (first.video(0) != windows(folder, seed=1).video(0)).any()


def test_windows_of_videos_go_forwards_and_those_of_pictures_move(folder):
    source, videos, pictures = windows(folder), 0, 0
    for index in range(40):
        clip = source.video(index)
        assert clip.shape == (9, 32, 32, 3) and clip.dtype == np.uint8
        if clip[..., 2].any():  # the video is grey, the picture has no blue
            videos += 1
            level = clip.astype(float).mean((1, 2, 3))
            assert np.ptp(clip.astype(int), axis=(1, 2)).max() < 12  # one frame shows one brightness, but for the codec
            np.testing.assert_allclose(np.diff(level), 10, atol=3)  # and frames follow each other
        else:
            pictures += 1
            means = clip.astype(float).mean((1, 2))[:, :2] / 2  # the place that the window's centre shows
            assert means.min() > 14 and means[:, 0].max() < 86 and means[:, 1].max() < 106
            steps = np.diff(means, axis=0)
            np.testing.assert_allclose(steps, np.broadcast_to(steps.mean(0), steps.shape), atol=1.0)  # at even speed
    # log2(1 + 20) against log2(1 + 1) in 40 draws
    assert videos > 24 and pictures > 2


def test_large_files_are_shrunk_once(folder):
    Image.new("RGB", (2000, 1000)).save(folder / "c.jpg")
    assert [video.shape[1:3] for video in windows(folder).videos] == [(100, 120), (48, 64), (MAX_SHORT_SIDE, 720)]


def test_a_share_of_the_clips_comes_from_the_other_source(folder):
    real, other = windows(folder), windows(folder, seed=1)
    mixed = Mixed(other, real, 0.75)
    from_real = [(mixed.video(i) == real.video(i)).all() for i in range(40)]
    assert 24 <= sum(from_real) <= 36 and len(mixed) == 40
    assert all((mixed.video(i) == other.video(i)).all() for i in range(40) if not from_real[i])


def test_folders_without_usable_files_are_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty': no files; give a folder of videos or pictures"):
        windows(tmp_path / "empty").video(0)
    with pytest.raises(InputError, match="'b.mp4' is 64 x 48, smaller than the windows of 64 pixels; remove it"):
        windows(folder, size=64).video(0)
    (folder / "notes.txt").write_text("no video")
    with pytest.raises(InputError, match="notes.txt"):
        windows(folder).video(0)
