"""Blinded rating: no name is shown, every vote is kept, scores and agreement are right, many may rate at once."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import numpy as np
import pytest

from mindsora import cli
from mindsora.errors import InputError
from mindsora.evaluate import rating, rating_server
from mindsora.media import export_to_video

NAMES = ("kestrel", "marmot", "osprey")


@pytest.fixture
def folder(tmp_path):
    """Two models with three clips of equal names, and one clip that has no partner."""
    for level, model in ((60, "aurora"), (180, "boreal")):
        for number, name in enumerate(NAMES):
            clip = np.full((9, 64, 64, 3), level + number, np.uint8)
            export_to_video(clip, tmp_path / "study" / model / f"{name}.mp4", 8)
    export_to_video(np.zeros((2, 64, 64, 3), np.uint8), tmp_path / "study/aurora/alone.mp4", 8)
    return tmp_path / "study"


def judge_all(study, rater, prefer):
    """Vote for the model that `prefer` says of each pair; "" is a tie. Returns the number of votes."""
    count = 0
    while "pair" in (seen := study.next_for(rater)):
        model = prefer(study.clip(seen["left"]).stem)
        sides = {study.clip(seen[side]).parent.name: side for side in ("left", "right")}
        study.vote(rater, seen["pair"], sides.get(model, "tie"))
        count += 1
    return count


def test_all_pairs_once_and_nothing_names_a_model(folder):
    study = rating.Rating(folder)
    for _ in range(2):  # asking twice, as a reload does, shows the same pair
        first = study.next_for("ann")
        assert first == study.next_for("ann") and first["done"] == 0 and first["total"] == 3
    assert not any(word in json.dumps(first) for word in ("aurora", "boreal", *NAMES))
    assert judge_all(study, "ann", lambda name: "aurora") == 3
    assert study.next_for("ann") == {"done": 3, "total": 3}
    assert study.next_for("bob")["done"] == 0


def test_votes_outlive_the_program_and_can_be_changed(folder):
    judge_all(rating.Rating(folder), "ann", lambda name: "aurora")
    again = rating.Rating(folder)
    assert again.next_for("ann")["done"] == 3 and again.report()["models"]["aurora"]["won"] == 3
    token = next(iter(again._by_token))
    for choice in rating.CHOICES:
        again.vote("ann", token, choice)
    assert again.report()["votes"] == 3 and again.report()["ties"] == 1


def test_sides_are_drawn(folder):
    study = rating.Rating(folder)
    left = [study.clip(study.next_for(f"rater {n}")["left"]).parent.name for n in range(40)]
    assert 8 < left.count("aurora") < 32  # 20 less or more four standard deviations


@pytest.mark.parametrize(
    "rater, token, choice, message",
    [
        ("", None, "left", "1 to 40 printable"),
        ("a" * 41, None, "left", "1 to 40 printable"),
        ("a\nb", None, "left", "1 to 40 printable"),
        ("ann", "no such", "left", "reload the page"),
        ("ann", None, "up", "one of left, right, tie"),
    ],
)
def test_bad_votes_are_not_kept(folder, rater, token, choice, message):
    study = rating.Rating(folder)
    with pytest.raises(InputError, match=message):
        study.vote(rater, token or next(iter(study._by_token)), choice)
    assert study.report()["votes"] == 0


def test_folders_without_pairs(tmp_path, folder, capsys):
    with pytest.raises(InputError, match="does not exist"):
        rating.pairs_in(tmp_path / "none")
    (tmp_path / "lonely").mkdir()
    (folder / "aurora").rename(tmp_path / "lonely/aurora")
    with pytest.raises(InputError, match="at least two models"):
        rating.pairs_in(tmp_path / "lonely")
    (tmp_path / "lonely/other").mkdir()
    (tmp_path / "lonely/aurora/alone.mp4").rename(tmp_path / "lonely/other/strange.mp4")
    with pytest.raises(InputError, match="no clip of one name"):
        rating.pairs_in(tmp_path / "lonely")
    assert cli.main(["evaluate", "rate", str(tmp_path / "none")]) == 2
    assert cli.main(["evaluate", "rate", str(folder), "--port", "70000"]) == 2
    assert "0 to 65535" in capsys.readouterr().err


def test_a_damaged_file_of_votes_is_named(folder):
    (folder / rating.VOTES).write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match="cannot keep votes in .*votes.sqlite3"):
        rating.Rating(folder)


# Scores.


def votes_of(strengths, games=400, seed=0):
    """Votes drawn from a Bradley-Terry model."""
    rng, models, votes = np.random.RandomState(seed), sorted(strengths), []
    for number in range(games):
        a, b = sorted(rng.choice(models, 2, replace=False))
        wins = rng.random_sample() < 1 / (1 + np.exp(strengths[b] - strengths[a]))
        votes.append(("r", f"clip {number}", a, b, a if wins else b))
    return votes


def test_bradley_terry_finds_the_strengths():
    strengths = {"a": 1.0, "b": 0.0, "c": -1.0}
    content = rating.report(votes_of(strengths))
    assert list(content["models"]) == ["a", "b", "c"]
    for model, strength in strengths.items():
        entry = content["models"][model]
        assert abs(entry["score"] - strength) < 0.5  # four standard errors of 400 votes
        assert entry["low"] < entry["score"] < entry["high"] and entry["high"] - entry["low"] < 1


def test_bradley_terry_of_two_models_is_the_log_odds():
    votes = [("r", str(n), "a", "b", "a" if n < 30 else "b" if n < 40 else "") for n in range(50)]
    score = rating.bradley_terry(votes)
    odds = np.log((30 + 5 + 0.5) / (10 + 5 + 0.5))  # ties are halves; half a win is the prior
    assert score["a"] - score["b"] == pytest.approx(odds, abs=1e-9)
    unbeaten = rating.bradley_terry(votes[:30])
    assert np.isfinite(unbeaten["a"]) and unbeaten["a"] > unbeaten["b"]
    assert rating.report([])["models"] == {}


def test_kappa_of_a_worked_table():
    labels = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert rating.kappa(labels) == pytest.approx(0.4)  # agreement 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    opposite = [("y", "n"), ("n", "y")] * 5
    assert rating.kappa(opposite) == -1
    assert rating.kappa([("tie", "tie")] * 5) is None and rating.kappa([]) is None


def test_kappa_counts_common_pairs(folder):
    study = rating.Rating(folder)
    judge_all(study, "ann", lambda name: "aurora" if name != "marmot" else "boreal")
    judge_all(study, "bob", lambda name: "aurora" if name != "marmot" else "boreal")
    seen = study.next_for("cy")
    study.vote("cy", seen["pair"], "tie")
    kappas = study.report()["kappa"]
    assert kappas["ann and bob"] == {"kappa": 1.0, "pairs": 3} and kappas["ann and cy"]["pairs"] == 1


# The server.


@pytest.fixture
def server(folder):
    running = rating_server.start(folder)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def ask(server, method, path, body=None, **headers):
    """Status, headers and body of an answer."""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=120)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


JSON = {"Content-Type": "application/json"}


def vote_over(server, **vote):
    return ask(server, "POST", "/vote", json.dumps(vote), **JSON)


@pytest.mark.full
def test_a_rater_over_http(server, folder):
    status, headers, page = ask(server, "GET", "/")
    assert (
        status == 200 and b"Which clip is better" in page and "default-src 'none'" in headers["Content-Security-Policy"]
    )
    seen = json.loads(ask(server, "GET", "/next?rater=ann")[2])
    for count in range(3):
        assert seen["done"] == count
        seen = json.loads(vote_over(server, rater="ann", pair=seen["pair"], choice="left")[2])
    assert seen == {"done": 3, "total": 3}
    content = json.loads(ask(server, "GET", "/report")[2])
    assert content["votes"] == 3 and set(content["models"]) == {"aurora", "boreal"}


@pytest.mark.full
def test_clips_whole_and_in_parts(server, folder):
    seen = json.loads(ask(server, "GET", "/next?rater=ann")[2])
    path = server.rating.clip(seen["left"])
    status, headers, content = ask(server, "GET", f"/clip/{seen['left']}")
    assert (status, headers["Content-Type"], content) == (200, "video/mp4", path.read_bytes())
    status, headers, part = ask(server, "GET", f"/clip/{seen['left']}", Range="bytes=10-19")
    assert (status, part) == (206, content[10:20]) and headers["Content-Range"] == f"bytes 10-19/{len(content)}"
    assert ask(server, "GET", f"/clip/{seen['left']}", Range="bytes=10-")[2] == content[10:]


@pytest.mark.full
@pytest.mark.parametrize("path", ["/clip/none", "/clip/../votes.sqlite3", "/votes.sqlite3", "/study"])
def test_no_other_file_is_served(server, path):
    assert ask(server, "GET", path)[0] == 404


@pytest.mark.full
def test_requests_of_other_sites_are_refused(server):
    vote = json.dumps({"rater": "x", "pair": next(iter(server.rating._by_token)), "choice": "left"})
    assert ask(server, "GET", "/report", Host="rating.example:80")[0] == 403
    assert ask(server, "POST", "/vote", vote, Host="rating.example", **JSON)[0] == 400
    assert ask(server, "POST", "/vote", vote, **{"Content-Type": "text/plain"})[0] == 400
    assert ask(server, "POST", "/vote", "x" * 5000, **JSON)[0] == 400
    for body in ("", "[]", "{}", "null", '{"rater": 1, "pair": 2, "choice": 3}'):
        assert ask(server, "POST", "/vote", body, **JSON)[0] == 400
    assert server.rating.report()["votes"] == 0
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.full
def test_many_raters_at_once(server):
    def rate(name):
        seen = json.loads(ask(server, "GET", f"/next?rater={name}")[2])
        while "pair" in seen:
            status, _, body = vote_over(server, rater=name, pair=seen["pair"], choice="left")
            assert status == 200, body
            seen = json.loads(body)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(rate, [f"rater{n}" for n in range(16)]))
    content = server.rating.report()
    assert (content["votes"], content["raters"], content["pairs"]) == (48, 16, 3)


@pytest.mark.full
def test_two_servers_share_a_folder(server, folder):
    other = rating.Rating(folder)
    judge_all(other, "ann", lambda name: "aurora")
    assert json.loads(ask(server, "GET", "/next?rater=ann")[2]) == {"done": 3, "total": 3}


@pytest.mark.full
def test_the_command_serves_until_it_is_interrupted_and_writes_the_report(folder):
    judge_all(rating.Rating(folder), "ann", lambda name: "boreal")
    command = [sys.executable, "-c", "from mindsora.cli import program; program()", "evaluate", "rate", str(folder)]
    running = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True, bufsize=1)
    line = running.stdout.readline()
    assert line.startswith("http://127.0.0.1:") and "3 pairs" in line
    running.send_signal(signal.SIGINT)
    assert running.wait(120) == 0
    content = json.loads((folder / rating.REPORT).read_text())
    assert content["models"]["boreal"]["won"] == 3
    with sqlite3.connect(folder / rating.VOTES) as votes:
        assert votes.execute("SELECT count(*) FROM votes").fetchone() == (3,)


def test_a_taken_port_is_named(server, folder):
    with pytest.raises(InputError, match=f"port {server.server_port} .*choose another --port"):
        rating_server.start(folder, server.server_port)
