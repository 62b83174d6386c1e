"""What a run's figures mean, in plain words: is it learning, is it healthy, when is it done, is the work safe."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmforge.viewing.curves import Series
from llmforge.viewing.run import RunView
from llmforge.viewing.words import count, duration, moment, number

Level = Literal["good", "watch", "bad", "unknown"]

#: A validation loss that is by more than this share above its best is worse, not noise.
_WORSE = 0.01
#: Evaluations in a row without a new best before that is told.
_PATIENCE = 3
#: A share of the loss that is no progress to speak of.
_FLAT = 0.002
#: Steps after which a loss that has not moved tells something.
_ENOUGH_STEPS = 200
#: A rate below this share of its median has dropped.
_SLOW = 0.6
#: A gradient norm so many times its median is a spike.
_SPIKE = 10.0
#: Seconds without a log event, and such events' usual distances, after which a run that goes on is asked after.
_SILENT_SECONDS, _SILENT_TIMES = 300.0, 10.0
#: Degrees Celsius at which cards begin to slow down, and percent of the time in which one that trains should work.
_HOT, _IDLE = 87.0, 50.0
#: Log events at the end by which the present is judged.
_RECENT = 20


@dataclass(frozen=True)
class Verdict:
    """The answer to one question.

    Attributes:
        question: ``Is it learning?``
        level: ``good``, ``watch`` (worth a look), ``bad``, ``unknown``.
        answer: In a word or two: ``Yes``.
        why: The figures behind it, in a sentence or two.
    """

    question: str
    level: Level
    answer: str
    why: str


def verdicts(view: RunView, now: float | None = None) -> list[Verdict]:
    """The four questions one looks at a run for, answered.

    The thresholds are rules of thumb: they point at what is worth a look and prove nothing.
    """
    now = time.time() if now is None else now
    asked: list[tuple[str, Callable[[RunView, float], tuple[Level, str, str]]]] = [
        ("Is it learning?", _learning),
        ("Is it healthy?", _healthy),
        ("When is it done?", _done),
        ("Is the work safe?", _safe),
    ]
    return [Verdict(question, *answer(view, now)) for question, answer in asked]


def _learning(view: RunView, now: float) -> tuple[Level, str, str]:
    if view.standing.state == "diverged":
        return "bad", "No", f"After step {count(view.step)} the loss or the gradient was no number any more."
    losses, kind = view.series.get("eval_loss"), "validation loss"
    if losses is None or len(losses) < 2:
        losses, kind = view.series.get("loss"), "training loss"
    if losses is None or len(losses) < 2:
        return "unknown", "Too early to say", "Two measurements of the loss are needed."
    first, last, lowest = losses.values[0], losses.values[-1], losses.lowest()
    if not math.isfinite(last) or lowest is None or not math.isfinite(first):
        return "bad", "No", f"The {kind} is {number(last)} at step {count(losses.steps[-1])}."
    step, best = lowest
    fell = f"The {kind} went from {number(first)} to {number(last)}"
    later = sum(1 for at in losses.steps if at > step)
    if kind == "validation loss" and later >= _PATIENCE and last > best * (1 + _WORSE):
        training = view.series.get("loss")
        still = training is not None and _mean(training, _RECENT) < _at(training, step)
        why = f"The validation loss was lowest at step {count(step)} ({number(best)}) and is {number(last)} now"
        final = view.record.get("final")
        kept = isinstance(final, dict) and final.get("which") == "best"
        good = " final/ holds the best." if kept else ""
        if still:
            helps = "More data, dropout or an earlier stop helps."
            return "watch", "Overfitting", f"{why}, while the training loss went on falling. {helps}{good}"
        return "watch", "Not any more", f"{why}.{good}"
    if last > first * (1 - _FLAT):
        if view.step >= _ENOUGH_STEPS:
            return "bad", "No", f"{fell} in {count(view.step)} steps: flat. Learning rate, warm-up and data are worth a look."
        return "unknown", "Too early to say", f"{fell} in {count(view.step)} steps."
    recent = _share_of_recent_fall(losses)
    if recent is not None and recent < _FLAT:
        return "good", "Yes, it has settled", f"{fell}; over the last quarter of the run it hardly moves any more."
    perplexity = f" (perplexity {number(math.exp(last), 3)})" if last < 50 else ""
    return "good", "Yes", f"{fell}{perplexity}" + (f"; lowest at step {count(step)}." if later else ", its lowest.")


def _share_of_recent_fall(losses: Series) -> float | None:
    """By how much of itself the loss fell over the last quarter; None for a short curve."""
    quarter = len(losses) // 4
    if quarter < 3:
        return None
    before, after = (statistics.median(part) for part in (losses.values[-2 * quarter : -quarter], losses.values[-quarter:]))
    return (before - after) / before if before > 0 and math.isfinite(after) else None


def _mean(series: Series, last: int) -> float:
    finite = [value for value in series.values[-last:] if math.isfinite(value)]
    return statistics.fmean(finite) if finite else math.nan


def _at(series: Series, step: float) -> float:
    """The mean about a step."""
    place = next((i for i, at in enumerate(series.steps) if at >= step), len(series) - 1)
    near = [value for value in series.values[max(place - _RECENT // 2, 0) : place + _RECENT // 2 + 1] if math.isfinite(value)]
    return statistics.fmean(near) if near else math.nan


def _healthy(view: RunView, now: float) -> tuple[Level, str, str]:
    state = view.standing.state
    if state == "diverged":
        return "bad", "No", "Resume from the last checkpoint with a lower learning rate, more warm-up or a smaller max_grad_norm."
    if state == "failed":
        return "bad", "No", view.standing.reason or "It ended with an error; run.log has it."
    if state == "killed":
        return "bad", "Killed", "No process holds the run, and none wrote how it ended: kill -9, no memory left, a power cut."
    if not view.latest:
        return "unknown", "Too early to say", "Nothing has been logged yet."
    losses = view.series.get("loss")
    if losses is not None and not math.isfinite(losses.values[-1]):
        return "bad", "No", f"The training loss is {number(losses.values[-1])}."
    silent = _silence(view, now)
    if silent is not None:
        return "bad", "It may hang", f"Nothing has been logged for {duration(silent)}, and its process is still there."
    found = [*_spikes(view), *_slow(view), *_device(view)]
    if view.problems:
        found.append(" ".join(view.problems))
    if view.warnings:
        many = len(view.warnings)
        found.append(f"{many} warning{'s' if many > 1 else ''} in the log.")
    if found:
        return "watch", "Worth a look", " ".join(found)
    watched = len(view.series.get("grad_norm", ())) >= 2 * _RECENT
    return (
        "good",
        "Yes",
        "No warnings" + (", no spikes of the gradient norm, and the speed is steady." if watched else " so far."),
    )


def _silence(view: RunView, now: float) -> float | None:
    """Seconds without a word from a run that goes on, where that is unusual."""
    times = view.series["loss"].times[-_RECENT:] if "loss" in view.series else None
    if not view.running or view.seen is None or times is None or len(times) < 3:
        return None
    usual = statistics.median(after - before for before, after in itertools.pairwise(times))
    evaluation = view.latest.get("eval_runtime", 0.0)
    quiet = now - view.seen
    return quiet if quiet > max(_SILENT_SECONDS, _SILENT_TIMES * usual, 3 * evaluation) else None


def _spikes(view: RunView) -> list[str]:
    norms = view.series.get("grad_norm")
    if norms is None or len(norms) < 2 * _RECENT:
        return []
    usual = statistics.median(norms.values[-50 * _RECENT :])
    high = zip(norms.steps[-_RECENT:], norms.values[-_RECENT:], strict=True)
    step, value = max(high, key=lambda item: item[1] if math.isfinite(item[1]) else math.inf)
    if usual > 0 and value > _SPIKE * usual:
        return [f"The gradient norm was {number(value)} at step {count(step)}, {value / usual:.0f} times its median."]
    return []


def _slow(view: RunView) -> list[str]:
    rates = view.series.get("tokens_per_second")
    if rates is None or len(rates) < 2 * _RECENT:
        return []
    usual = statistics.median(rates.values[-50 * _RECENT :])
    now = statistics.median(rates.values[-_RECENT:])
    return [f"It does {count(now)} tokens a second, where {count(usual)} were usual."] if now < _SLOW * usual else []


def _device(view: RunView) -> list[str]:
    """What a GPU tells of itself; of a CPU no temperature is logged."""
    heat, used = view.series.get("device_temperature"), view.series.get("device_utilization")
    if not view.running or heat is None:
        return []
    found = []
    if heat.values[-1] >= _HOT:
        found.append(f"The GPU is at {heat.values[-1]:.0f} °C and may slow down.")
    if used is not None and len(used) >= _RECENT and statistics.median(used.values[-_RECENT:]) < _IDLE:
        found.append(f"The GPU is only {statistics.median(used.values[-_RECENT:]):.0f} % busy: it waits for data or for others.")
    return found


def _done(view: RunView, now: float) -> tuple[Level, str, str]:
    stands = view.standing
    of = f"step {count(view.step)}" + (f" of {count(view.max_steps)}" if view.max_steps else "")
    if stands.state == "finished":
        early = " before the planned end" if view.max_steps and view.step < view.max_steps else ""
        return "good", "It is", f"Finished{early} at {of} after {duration(view.seconds)}."
    if stands.state == "running":
        if view.eta_seconds is None:
            return "unknown", "Not known yet", f"At {of}."
        return (
            "good",
            f"In {duration(view.eta_seconds)}",
            f"At {of}, {view.fraction or 0:.0%}; about {moment(now + view.eta_seconds)}.",
        )
    level: Level = "bad" if stands.state in ("diverged", "failed") else "watch"
    ended = {"killed": "Killed", "unknown": "No end is recorded", "diverged": "Diverged", "failed": "Failed"}
    how = ended.get(stands.state, "Stopped")
    return level, "Not finished", f"{how} at {of}. The same command with --output_dir and --resume goes on."


def _safe(view: RunView, now: float) -> tuple[Level, str, str]:
    kept = view.saved
    sound = [item for item in kept.checkpoints if item.here == "committed"]
    damaged = [item.name for item in kept.checkpoints if item.here == "damaged"]
    if damaged:
        more = f"; {sound[-1].name} is sound" if sound else ""
        return "bad", "Not all of it", f"Damaged: {', '.join(damaged[:3])}{more}."
    there = [item for item in kept.checkpoints if item.remote == "done"]
    newest = max((item.step for item in (*sound, *there)), default=None)
    final = view.record.get("final") if view.standing.state == "finished" else None
    if isinstance(final, dict) and newest is None and not kept.remote:
        return "good", "Yes", "final/ holds the model. On this machine only: no --remote was given."
    if newest is None:
        if view.step == 0:
            return "unknown", "Nothing to lose yet", "No step was logged and no checkpoint saved."
        level: Level = "watch" if view.running else "bad"
        return level, "No", f"There is no checkpoint: {count(view.step)} steps {'would be' if view.running else 'are'} lost."
    ahead = max(view.step - newest, 0)
    lost = f"The newest checkpoint is of step {count(newest)}" + (f"; {count(ahead)} steps are not in it yet." if ahead else ".")
    failed = [item for item in kept.checkpoints if item.remote == "failed"]
    if failed or kept.failed:
        what = failed[-1].problem if failed else next(iter(kept.failed.values()))
        return "bad", "Here only", f"{lost} Uploads to {kept.remote} fail: {what}"
    # The metrics and the log of a run that goes on are never all there.
    waiting = [name for name in kept.undelivered if not view.running or name.startswith("checkpoint-")]
    if waiting:
        shown = ", ".join(waiting[:3]) + (f" and {len(waiting) - 3} more" if len(waiting) > 3 else "")
        return "watch", "Not all of it is in the store", f"{lost} Not uploaded yet: {shown}."
    where = f" All of it is in {kept.remote} too." if kept.remote else " On this machine only: no --remote was given."
    if ahead and not view.running and view.standing.state != "finished":
        return "watch", "Up to the last checkpoint", lost + where
    return "good", "Yes", lost + where
