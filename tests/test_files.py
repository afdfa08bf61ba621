"""A file is complete or absent, even if several processes write the same name."""

import hashlib
import multiprocessing
import os
import stat
import time

import ml_dtypes
import numpy as np
import pytest

from mindsora.errors import InputError
from mindsora.files import (
    STALE_SECONDS,
    arrays_sha256,
    claimed,
    file_sha256,
    replacing,
    replacing_folder,
    whole_file,
    written_together,
)


def test_checksum(tmp_path):
    content = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "x").write_bytes(content)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_checksum_of_arrays():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    known = arrays_sha256({"a": array, "n": np.array(3)}, {"x": 1})
    assert known == arrays_sha256({"n": np.array(3), "a": np.asfortranarray(array)}, {"x": 1})
    for other in ({"b": array}, {"a": array.T}, {"a": array.reshape(3, 2)}, {"a": array.view(np.int32)}, {"a": -array}):
        assert arrays_sha256(other | {"n": np.array(3)}, {"x": 1}) != known
    assert arrays_sha256({"a": array, "n": np.array(3)}, {"x": 2}) != known
    assert arrays_sha256({"a": array.astype(ml_dtypes.bfloat16)}, {}) != arrays_sha256({"a": array}, {})


def test_a_file_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "x.txt"
    with whole_file(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path and not target.exists()
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["x.txt"]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), replacing(target) as out:
        out.write(b"half")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["x.txt"]


def test_what_the_system_says_is_passed_on(tmp_path):
    with pytest.raises(InputError, match=r"cannot write '.*x.txt': No space left"), whole_file(tmp_path / "x.txt"):
        raise OSError(28, "No space left on device")
    with pytest.raises(InputError, match="No such file"), whole_file(tmp_path / "missing" / "x.txt"):
        pass
    with pytest.raises(OSError, match="No space left"), replacing(tmp_path / "x.txt"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_a_file_has_the_rights_that_open_gives(tmp_path):
    (tmp_path / "plain").write_text("")
    with whole_file(tmp_path / "x"):
        pass
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "x")]
    assert rights[0] == rights[1]


def test_two_writers_of_one_name_have_a_temporary_file_each(tmp_path):
    target = tmp_path / "clip.mp4"
    with whole_file(target) as first:
        with whole_file(target) as second:
            first.write_text("first")
            second.write_text("second")
            assert first != second
        assert target.read_text() == "second"
    assert target.read_text() == "first"  # the last writer to finish
    assert os.listdir(tmp_path) == ["clip.mp4"]


def _write_often(path, letter):
    for _ in range(40):
        with replacing(path) as out:
            for _ in range(64):
                out.write(letter * 1024)


def test_a_name_that_processes_race_for_is_whole_at_every_moment(tmp_path):
    target = tmp_path / "x.bin"
    spawn = multiprocessing.get_context("spawn")  # a fork would copy MindSpore's threads
    writers = [spawn.Process(target=_write_often, args=(target, letter)) for letter in (b"a", b"b", b"c")]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        if target.exists():
            seen.add(target.read_bytes())
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen | {target.read_bytes()} <= {letter * 65536 for letter in (b"a", b"b", b"c")}
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("write", [whole_file, replacing])
def test_a_planted_link_is_not_followed(tmp_path, monkeypatch, write):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "x.00000000.partial").symlink_to(victim)
    (tmp_path / "x.partial").symlink_to(victim)
    monkeypatch.setattr("mindsora.files.secrets.token_hex", lambda count: "00000000")
    with pytest.raises((InputError, FileExistsError), match="File exists"), write(tmp_path / "x"):
        pass
    monkeypatch.undo()
    with write(tmp_path / "x"):
        pass
    assert victim.read_text() == "precious" and not (tmp_path / "x").is_symlink()


def test_only_what_was_left_long_ago_is_removed(tmp_path):
    now, old = time.time(), time.time() - STALE_SECONDS - 60
    ages = {
        "x.01234567.partial": old,  # of a killed run
        "y.mp4.89abcdef.partial": old,
        "x.76543210.partial": now,  # of a run that is writing
        "mine.partial": old,  # not one of our names
    }
    for name, age in ages.items():
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (age, age))
    folder = tmp_path / "z.01234567.partial"
    (folder / "inside").mkdir(parents=True)
    os.utime(folder, (old, old))
    with whole_file(tmp_path / "x"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["mine.partial", "x", "x.76543210.partial"]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "model"
    with replacing_folder(target) as folder:
        (folder / "config.json").write_text("{}")
        assert not target.exists()
    assert os.listdir(target.parent) == ["model"] and os.listdir(target) == ["config.json"]
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "other") as folder:
        (folder / "config.json").write_text("{}")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["new"]


def test_a_folder_never_mixes_two_writers(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(OSError, match="not empty"), replacing_folder(target) as first:
        (first / "a").write_text("")
        with replacing_folder(target) as second:
            (second / "b").write_text("")
    assert os.listdir(target) == ["b"] and os.listdir(tmp_path) == ["model"]


def _write_pairs(path, letter):
    for _ in range(20):
        with written_together(path) as folder:
            (folder / path.name).write_bytes(letter * 65536)
            (folder / f"{path.name}.json").write_bytes(letter)


def test_a_file_and_its_description_come_from_one_writer(tmp_path):
    target = tmp_path / "x.bin"
    spawn = multiprocessing.get_context("spawn")
    for _ in range(3):
        writers = [spawn.Process(target=_write_pairs, args=(target, letter)) for letter in (b"a", b"b")]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
            assert writer.exitcode == 0
        assert target.read_bytes() == (tmp_path / "x.bin.json").read_bytes() * 65536
    assert sorted(os.listdir(tmp_path)) == ["x.bin", "x.bin.json"]


def test_a_file_and_its_description_appear_both_or_neither(tmp_path):
    target = tmp_path / "x.bin"
    with pytest.raises(InputError, match="cannot write '.*x.bin': No space left"), written_together(target) as folder:
        (folder / "x.bin").write_text("new")
        raise OSError(28, "No space left on device")
    refused = pytest.raises(InputError, match=f"cannot write '{target}': No space")
    with refused, written_together(target) as folder, whole_file(folder / "x.bin"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_a_name_as_long_as_the_file_system_takes(tmp_path):
    target = tmp_path / ("\N{SNOWMAN}" * 85)  # 255 bytes
    with whole_file(target) as temporary:
        temporary.write_text("x")
    assert target.read_text() == "x"


@pytest.mark.parametrize("there", [True, False], ids=["a file", "no file yet"])
def test_a_link_stays_and_its_file_is_replaced(tmp_path, there):
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store" / "real.bin", tmp_path / "clip.bin"
    if there:
        real.write_text("old")
    link.symlink_to(real)
    with pytest.raises(KeyboardInterrupt), whole_file(link):
        raise KeyboardInterrupt
    assert real.exists() == there and (not there or real.read_text() == "old")
    with whole_file(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and real.read_text() == "new"
    with written_together(link) as folder:
        (folder / "clip.bin").write_text("newer")
        (folder / "clip.json").write_text("{}")
    assert link.is_symlink() and real.read_text() == "newer"
    assert sorted(os.listdir(tmp_path)) == ["clip.bin", "clip.json", "store"]
    assert os.listdir(tmp_path / "store") == ["real.bin"]


def _claim(path, claim, free):
    with claimed(path):
        claim.set()
        free.wait()


def test_a_claimed_name_is_refused_to_other_processes(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    claim, free = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_claim, args=(tmp_path / "x", claim, free))
    process.start()
    assert claim.wait(60)
    with pytest.raises(InputError, match="another process is writing .*x'; wait for it"), claimed(tmp_path / "x"):
        pass
    with claimed(tmp_path / "y"):
        pass
    process.kill()  # a dead process claims nothing
    process.join()
    with claimed(tmp_path / "x"):
        pass
    assert os.listdir(tmp_path) == []
    with pytest.raises(InputError, match="cannot write .*x': No such file"), claimed(tmp_path / "missing" / "x"):
        pass
