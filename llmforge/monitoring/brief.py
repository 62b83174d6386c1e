"""The answers to the four questions in the few words that a row of a terminal has room for."""

from __future__ import annotations

import math
import time

from llmforge.viewing.run import RunView
from llmforge.viewing.saved import Checkpoint
from llmforge.viewing.verdicts import Verdict
from llmforge.viewing.words import count, duration, number, short


def figure(value: float, digits: int = 3) -> str:
    """A measured figure in few characters: ``3.19``, ``12,345``, ``1.2 M``, ``2.8e-4``."""
    if math.isfinite(value) and abs(value) >= 1e15:
        return f"{value:.1e}".replace("e+", "e")
    return short(value) if math.isfinite(value) and abs(value) >= 1e5 else number(value, digits)


def clock(at: float, now: float) -> str:
    """A moment in this machine's time: ``14:05``, on another day ``Sun 14:05``, in another week ``7 Dec 14:05``."""
    try:
        then, today = time.localtime(at), time.localtime(now)
    except (OverflowError, ValueError, OSError):
        return "—"
    of_day = time.strftime("%H:%M", then)
    if then[:3] == today[:3]:
        return of_day
    day = time.strftime("%a", then) if abs(at - now) < 6 * 86400 else f"{then.tm_mday} {time.strftime('%b', then)}"
    return f"{day} {of_day}"


def brief(view: RunView, verdicts: list[Verdict], now: float) -> list[tuple[str, Verdict, str]]:
    """Of each verdict a short question, the verdict and the figures behind it."""
    learning, healthy, done, safe = verdicts
    return [
        ("learning?", learning, _learning(view) or view.standing.reason or learning.why),
        ("healthy?", healthy, _healthy(view) if healthy.level == "good" else healthy.why),
        ("done?", done, _done(view, now)),
        ("work safe?", safe, _safe(view, now) or safe.why),
    ]


def _learning(view: RunView) -> str:
    """The losses; nothing for a run that has none, or none any more."""
    loss, validation = view.series.get("loss"), view.series.get("eval_loss")
    if view.standing.state == "diverged" or (loss is not None and not math.isfinite(loss.values[-1])):
        return ""
    told = []
    if loss is not None:
        told.append(f"loss {figure(loss.values[-1])}")
    lowest = validation.lowest() if validation is not None else None
    if validation is not None and lowest is not None:
        newest = figure(validation.values[-1])
        where = ", the best yet" if lowest[0] == validation.steps[-1] else f", best {figure(lowest[1])} at {count(lowest[0])}"
        told.append(f"validation {newest}{where if len(validation) > 1 else ''}")
    return "; ".join(told)


def _healthy(view: RunView) -> str:
    norm, speed = view.latest.get("grad_norm"), view.latest.get("tokens_per_second")
    told = ["no warnings"]
    if norm is not None:
        told.append(f"gradient norm {figure(norm)}")
    if speed is not None:
        told.append(f"{figure(speed)} tokens/s")
    return ", ".join(told)


def left(view: RunView, now: float) -> str:
    """How long it will still take, and when that is; nothing for a run that does not go on."""
    if view.eta_seconds is None:
        return ""
    if view.eta_seconds <= 0 and view.step < (view.max_steps or 0):
        return "late"  # silent for longer than it wanted to take, or a clock is wrong
    return f"{duration(view.eta_seconds)} left, {clock(now + view.eta_seconds, now)}"


def _done(view: RunView, now: float) -> str:
    of = f"step {count(view.step)}" + (f" of {count(view.max_steps)}" if view.max_steps else "")
    state = view.standing.state
    if view.running:
        when = left(view, now).rpartition(", ")[2]
        return f"{when and when + '; '}{of}"
    if state != "finished":
        return f"{state} at {of}; --resume goes on"
    return f"{of}, after {duration(view.seconds)}" if view.seconds is not None else of


def _safe(view: RunView, now: float) -> str:
    """What is wrong, the newest checkpoint that is sound, and what came after it; nothing where there is none."""
    saved = view.saved
    kept = [item for item in saved.checkpoints if item.here == "committed" or item.remote == "done"]
    if not kept:
        return ""
    newest = kept[-1]
    told = [f"{item.name} is damaged" for item in saved.checkpoints[::-1] if item.here == "damaged"][:1]
    failed = [item.problem for item in saved.checkpoints[::-1] if item.remote == "failed"] + list(saved.failed.values())
    told += [f"uploads fail: {problem}" for problem in failed[:1]]
    waiting = [item for item in saved.undelivered if item.startswith("checkpoint-") or not view.running]
    store = "" if saved.remote is None or failed or waiting else ", in the store"
    told.append(f"{newest.name}{_ago(view, newest, now)}{store}")
    if waiting and not failed:
        told.append(f"{waiting[0]} not sent yet")
    final = view.record.get("final")
    if isinstance(final, dict) and final.get("which") in ("best", "last"):
        told.append(f"final/ is the {final['which']} model")
    return "; ".join(told)


def _ago(view: RunView, newest: Checkpoint, now: float) -> str:
    """How far the run is past a checkpoint: ``, 20 steps (3 min) ago``."""
    steps = f"{count(view.step - newest.step)} steps" if view.step > newest.step else ""
    age = duration(now - newest.time) if newest.time is not None and view.running else ""
    return f", {steps} ({age}) ago" if steps and age else f", {steps or age} ago" if steps or age else ""
