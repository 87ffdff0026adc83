"""Learning from a record, from beginning to end: one place that reads from top to bottom."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dflash_local.errors import DFlashError
from dflash_local.record.folder import LEARNED
from dflash_local.record.reading import read_record
from dflash_local.train import Progress

from . import places as where
from .fitting import fit
from .options import LearnOptions
from .pace import Pace
from .places import Places, find
from .replay import Traffic, Verdict, compare, read_traffic, replay
from .report import write_report
from .texts import MOST_READ, Learned, texts_of

_REPLAY = 0.1  # share of the time after which a replay ends, where it has replayed enough
_SLACK = 1.5  # what remains to be done after the fit may take so much longer than it did before
_SILENT = Progress()


@dataclass(frozen=True)
class Outcome:
    """How learning ended.

    Attributes:
        verdict: of the replay.
        places: ``to`` is the drafter in use from now on, where it was put in place.
        in_place: whether it was.
        minutes: of work.
        paused: minutes in which models answered.
    """

    verdict: Verdict
    places: Places
    learned: Learned
    in_place: bool
    minutes: float
    paused: float
    report: Path


def learn(options: LearnOptions, progress: Progress = _SILENT) -> Outcome:
    """Trains the drafter in use further on recorded answers, and puts it in place if it is better.

    Better is judged by a replay of answers that it has not seen, with both drafters, in the loop
    that will run them. Torch's number of threads is set to ``options.threads``.

    Raises:
        DFlashError: there is nothing to learn from or by, or another learning is at work.
        OSError: a file cannot be read or written.
    """
    record = read_record(options.folder, MOST_READ)
    with _alone(options.folder) as work:
        pace = Pace(options.folder, options.minutes, progress.say)
        places = find(options, record)
        learned = texts_of(options, record, places.verifier)
        progress.say(
            f"{len(learned.texts)} answers to learn from, {len(learned.held_out)} to be replayed"
        )
        pace.make_way()
        verdict = _try(options, places, learned, work, pace, progress)
        if verdict.is_better:
            where.put_in_place(work / LEARNED, places)
        outcome = Outcome(
            verdict,
            places,
            learned,
            verdict.is_better,
            pace.worked / 60,
            pace.paused / 60,
            options.folder / "learning" / "report.md",
        )
        write_report(outcome)
        return outcome


def undo(options: LearnOptions) -> Places:
    """Puts the drafter back in use that was in use before; a second time the later one.

    Raises:
        DFlashError: there is none.
    """
    places = find(options, read_record(options.folder, MOST_READ))
    where.swap_back(places)
    return places


def _try(
    options: LearnOptions,
    places: Places,
    learned: Learned,
    work: Path,
    pace: Pace,
    progress: Progress,
) -> Verdict:
    """Fits a drafter, which is ``LEARNED`` in the folder then, and replays with both."""
    machine = {"n_threads": options.threads, "n_gpu_layers": options.gpu_layers}
    seconds = 60 * options.minutes * _REPLAY
    traffic = read_traffic(places.verifier, learned.held_out, learned.dialogues, pace, **machine)
    began = pace.worked
    before = replay(places.verifier, places.drafter, traffic, pace, seconds=seconds, **machine)
    progress.say(f"{places.drafter.name}: {before.length:.2f} tokens a step on what is replayed")
    reserve = _SLACK * 2 * (pace.worked - began)  # the fit ends with a simulation of its own
    made = fit(options, places, learned.texts, work, pace, progress, reserve)
    made.replace(work / LEARNED)
    same = Traffic(traffic.texts[: len(before.accepted)], traffic.dialogues)
    after = replay(places.verifier, work / LEARNED, same, pace, **machine)
    return compare(before, after, traffic.dialogues)


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """A folder to work in, empty, and gone at the end."""
    from filelock import FileLock, Timeout

    root = folder / "learning"
    root.mkdir(mode=0o700, exist_ok=True)
    work = root / "work"
    lock = FileLock(root / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DFlashError(
            f"{folder}: another learning is at work here: wait for it, or stop it"
        ) from None
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.release()
