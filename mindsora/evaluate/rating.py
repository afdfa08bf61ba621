"""Blinded rating by people: pairs of clips without names, votes in SQLite, agreement and scores.

A folder holds one folder of clips for each model; clips of one name, made for one prompt, are a pair:

    ratings/model-a/long-00.mp4      ratings/model-b/long-00.mp4

The output folder of an evaluation, with its `clips`, stands for its model as it is. Votes are in `votes.sqlite3` beside the
folders; `report` gives Bradley-Terry scores and Cohen's kappa.
"""

import hashlib
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from mindsora import manifest
from mindsora.errors import InputError, shown
from mindsora.evaluate.intervals import DRAWS, LEVEL
from mindsora.evaluate.items import VIDEOS, videos_of

VOTES, REPORT = "votes.sqlite3", "rating.json"
CHOICES = ("left", "right", "tie")
MAX_NAME = 40  # characters of a rater's name
WAIT = 120.0  # seconds that a vote waits for another process's write
_PRIOR = 0.5  # wins of each model over each other that it is compared with; without them an unbeaten score is infinite


@dataclass(frozen=True)
class Pair:
    """Two clips of one name.

    Attributes:
        name: of both files, without the suffix.
        models: whose they are, in alphabetical order.
        paths: the files.
        prompt: of both, from a manifest beside either; "" where there is none.
    """

    name: str
    models: tuple[str, str]
    paths: tuple[Path, Path]
    prompt: str = ""


def pairs_in(folder: Path) -> tuple[Pair, ...]:
    """All pairs of a folder.

    Raises:
        InputError: no such folder, fewer than two folders of clips in it, or no clip that two of them have.
    """
    if not folder.is_dir():
        raise InputError(f"folder {shown(folder)} does not exist; it must hold a folder of clips for each model")
    clips = {path.name: videos_of(_clips(path)) for path in sorted(folder.iterdir()) if _holds_clips(path)}
    if len(clips) < 2:
        raise InputError(
            f"folder {shown(folder)} holds {len(clips)} folders of clips; rating compares at least two models"
        )
    pairs = [
        Pair(name, (a, b), (clips[a][name], clips[b][name]), _prompt(clips[a][name], clips[b][name]))
        for a, b in combinations(clips, 2)
        for name in clips[a]
        if name in clips[b]
    ]
    if not pairs:
        raise InputError(f"the folders in {shown(folder)} have no clip of one name; name clips of one prompt alike")
    return tuple(pairs)


def _clips(path: Path) -> Path:
    return path / "clips" if (path / "clips").is_dir() else path


def _holds_clips(path: Path) -> bool:
    return path.is_dir() and any(file.suffix.lower() in VIDEOS for file in _clips(path).iterdir())


def _prompt(*paths: Path) -> str:
    for path in paths:
        if manifest.beside(path).is_file():
            return manifest.read(manifest.beside(path))["request"]["prompt"]
    return ""


class Rating:
    """The pairs of a folder and the votes on them. Any number of threads and processes may share a folder.

    Nothing that a rater sees names a model: pairs and clips have tokens, drawn with a secret of the folder.
    """

    def __init__(self, folder: Path):
        self.folder, self.pairs = folder, pairs_in(folder)
        with self._votes() as votes:
            votes.execute("CREATE TABLE IF NOT EXISTS secret (value TEXT NOT NULL)")
            votes.execute(
                "CREATE TABLE IF NOT EXISTS votes (rater TEXT, name TEXT, first TEXT, second TEXT, winner TEXT, "
                "time TEXT DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (rater, name, first, second))"
            )
            if votes.execute("SELECT value FROM secret").fetchone() is None:
                votes.execute("INSERT INTO secret VALUES (?)", (secrets.token_hex(16),))
            (self._secret,) = votes.execute("SELECT value FROM secret").fetchone()
        self._by_token = {self._token("pair", pair.name, *pair.models): pair for pair in self.pairs}
        self._clips = {self._token("clip", str(path)): path for pair in self.pairs for path in pair.paths}

    def clip(self, token: str) -> Path | None:
        """The file of a clip's token."""
        return self._clips.get(token)

    def next_for(self, rater: str) -> dict:
        """What a rater sees: the pair that comes next in an order of their own, sides drawn, or none when all are done.

        Raises:
            InputError: an empty name, or one that is too long.
        """
        rater = _rater(rater)
        with self._votes() as votes:
            done = set(votes.execute("SELECT name, first, second FROM votes WHERE rater = ?", (rater,)))
        todo = [token for token, pair in self._by_token.items() if (pair.name, *pair.models) not in done]
        seen = {"done": len(self._by_token) - len(todo), "total": len(self._by_token)}
        if not todo:
            return seen
        token = min(todo, key=lambda each: self._token("order", rater, each))
        pair = self._by_token[token]
        left, right = (self._token("clip", str(path)) for path in self._sides(rater, token, pair.paths))
        return seen | {"pair": token, "prompt": pair.prompt, "left": left, "right": right}

    def vote(self, rater: str, token: str, choice: str) -> None:
        """Keep a vote, in place of an earlier one of this rater on this pair.

        Raises:
            InputError: a name, pair or choice that is not legal.
        """
        rater, pair = _rater(rater), self._by_token.get(token)
        if pair is None:
            raise InputError(f"pair {shown(token)} is not one of this folder; reload the page")
        if choice not in CHOICES:
            raise InputError(f"choice {shown(choice)}: must be one of {', '.join(CHOICES)}")
        left, right = self._sides(rater, token, pair.models)
        winner = {"left": left, "right": right, "tie": ""}[choice]
        with self._votes() as votes:
            votes.execute(
                "INSERT OR REPLACE INTO votes (rater, name, first, second, winner) VALUES (?, ?, ?, ?, ?)",
                (rater, pair.name, *pair.models, winner),
            )

    def report(self) -> dict:
        """Scores of the models and agreement of the raters, from all votes so far."""
        with self._votes() as votes:
            rows = votes.execute("SELECT rater, name, first, second, winner FROM votes").fetchall()
        return report(rows)

    def _sides(self, rater: str, token: str, both: tuple) -> tuple:
        return both if int(self._token("side", rater, token), 16) % 2 else both[::-1]

    def _token(self, *words: str) -> str:
        return hashlib.sha256("\0".join((self._secret, *words)).encode()).hexdigest()[:20]

    @contextmanager
    def _votes(self) -> Iterator[sqlite3.Connection]:
        """The open votes, in one transaction."""
        try:
            votes = sqlite3.connect(self.folder / VOTES, timeout=WAIT)
        except sqlite3.Error as error:
            raise InputError(
                f"cannot open {shown(self.folder / VOTES)}: {error}; use a folder that can be written"
            ) from None
        try:
            with votes:
                votes.execute("BEGIN IMMEDIATE")
                yield votes
        except sqlite3.Error as error:
            raise InputError(f"cannot keep votes in {shown(self.folder / VOTES)}: {error}") from None
        finally:
            votes.close()


def _rater(name: str) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise InputError(f"name of the rater {shown(name)}: must be 1 to {MAX_NAME} printable characters")
    return name.strip()


Vote = tuple[str, str, str, str, str]  # rater, name of the pair, first and second model, winner or "" for a tie


def report(votes: Sequence[Vote]) -> dict:
    """Bradley-Terry scores with 95 % intervals, wins and ties, and Cohen's kappa of every two raters."""
    scores = bradley_terry(votes)
    bounds = _bounds(votes)
    won = {model: sum(vote[4] == model for vote in votes) for model in scores}
    return {
        "votes": len(votes),
        "pairs": len({vote[1:4] for vote in votes}),
        "raters": len({vote[0] for vote in votes}),
        "ties": sum(vote[4] == "" for vote in votes),
        "models": {
            model: {"score": score, "low": bounds[model][0], "high": bounds[model][1], "won": won[model]}
            for model, score in sorted(scores.items(), key=lambda item: -item[1])
        },
        "kappa": kappas(votes),
    }


def bradley_terry(votes: Sequence[Vote]) -> dict[str, float]:
    """Model -> log strength, mean 0 (Bradley and Terry 1952): a model beats another with odds exp(difference).

    A tie counts as half a win of both. Hunter's iteration (2004), which always rises to the maximum of the likelihood.
    """
    models = sorted({model for vote in votes for model in vote[2:4]})
    if not models:
        return {}
    number = {model: n for n, model in enumerate(models)}
    wins = np.zeros((len(models), len(models)))
    for _, _, first, second, winner in votes:
        a, b = number[first], number[second]
        wins[a, b] += 0.5 if winner == "" else winner == first
        wins[b, a] += 0.5 if winner == "" else winner == second
    wins += _PRIOR * ((wins + wins.T) > 0)
    games, strength = wins + wins.T, np.ones(len(models))
    for _ in range(1000):
        last = strength
        strength = wins.sum(1) / (games / (strength[:, None] + strength[None, :])).sum(1)
        strength /= np.exp(np.log(strength).mean())
        if np.abs(np.log(strength / last)).max() < 1e-12:
            break
    return dict(zip(models, np.log(strength).tolist(), strict=True))


def _bounds(votes: Sequence[Vote]) -> dict[str, tuple[float | None, float | None]]:
    """95 % bootstrap bounds of the scores; all votes on the clips of one name are drawn together."""
    by_name: dict[str, list[Vote]] = {}
    for vote in votes:
        by_name.setdefault(vote[1], []).append(vote)
    models = {model for vote in votes for model in vote[2:4]}
    if len(by_name) < 2:
        return dict.fromkeys(models, (None, None))
    groups, rng = list(by_name.values()), np.random.RandomState(0)
    draws = [
        bradley_terry([vote for n in rng.randint(len(groups), size=len(groups)) for vote in groups[n]])
        for _ in range(DRAWS // 5)
    ]
    tail = (100 - LEVEL) / 2
    values = {model: [draw[model] for draw in draws if model in draw] for model in models}
    return {model: tuple(np.percentile(kept, (tail, 100 - tail)).tolist()) for model, kept in values.items()}


def kappas(votes: Sequence[Vote]) -> dict[str, dict[str, float | int | None]]:
    """Cohen's kappa of every two raters on the pairs that both judged, and their number."""
    by_rater: dict[str, dict[tuple, str]] = {}
    for rater, *pair, winner in votes:
        by_rater.setdefault(rater, {})[tuple(pair)] = _category(pair, winner)
    out = {}
    for a, b in combinations(sorted(by_rater), 2):
        common = [pair for pair in by_rater[a] if pair in by_rater[b]]
        labels = [(by_rater[a][pair], by_rater[b][pair]) for pair in common]
        out[f"{a} and {b}"] = {"kappa": kappa(labels), "pairs": len(labels)}
    return out


def _category(pair: Sequence[str], winner: str) -> str:
    return {"": "tie", pair[1]: "first", pair[2]: "second"}[winner]


def kappa(labels: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa (1960): agreement beyond chance. None without labels, or where chance alone gives full agreement."""
    if not labels:
        return None
    observed = np.mean([a == b for a, b in labels])
    names = {label for pair in labels for label in pair}
    chance = sum(np.mean([a == n for a, _ in labels]) * np.mean([b == n for _, b in labels]) for n in names)
    return None if chance == 1 else float((observed - chance) / (1 - chance))
