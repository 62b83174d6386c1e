"""llmforge checkpoints list RUN
llmforge checkpoints view RUN NAME
llmforge checkpoints compare RUN NAME NAME
llmforge checkpoints plot RUN --save loss.png
llmforge checkpoints verify RUN
llmforge checkpoints status RUN
llmforge checkpoints upload RUN --all
llmforge checkpoints download gs://bucket/prefix/RUN
llmforge checkpoints prune RUN --keep 2

Look at the checkpoints of a run, here or in a store by its URL; move and tidy them. Only the JSON
files of a checkpoint are read; its weights are only hashed (`verify`) or, as safetensors, compared
(`compare`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from llmforge.checkpoints import render
from llmforge.checkpoints.commit import delete
from llmforge.checkpoints.compare import config_differences, weight_distances
from llmforge.checkpoints.manifest import checkpoint_step, is_committed, verify
from llmforge.checkpoints.outline import fetch_weights, place, readable, verify_remote
from llmforge.checkpoints.retention import superfluous
from llmforge.checkpoints.status import run_status
from llmforge.checkpoints.summary import best_step, checkpoint_folders, find, summarise
from llmforge.configs.source import without_secrets
from llmforge.errors import CheckFailed, CheckpointError, ConfigError, LlmforgeError
from llmforge.runtime.commands import CommandParser, run_command
from llmforge.runtime.devices import format_bytes
from llmforge.runtime.logs import console, printable, set_up_logging
from llmforge.runtime.run_lock import RunLock
from llmforge.storage.files import is_url, local_path


def parser() -> argparse.ArgumentParser:
    """The command line of `llmforge checkpoints`."""
    return _parsers()[0]


def _parsers() -> tuple[argparse.ArgumentParser, Collection[str]]:
    """The command line, and the verbs that it has."""
    whole = CommandParser(
        prog="llmforge checkpoints", description="Look at the checkpoints of a run, and tidy them.", allow_abbrev=False
    )
    verbs = whole.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=CommandParser)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.", allow_abbrev=False)
        made.add_argument("run", metavar="RUN", type=place, help="The run's folder, or its URL in a store.")
        made.add_argument("--json", action="store_true", help="Print one JSON object and nothing else.")
        return made

    name = "checkpoint-500, 500, newest or best"
    verb("list", "a table of the checkpoints: step, loss, which is best, when, how large, whether committed")
    verb("view", "what is known of one checkpoint").add_argument(
        "name", nargs="?", default="newest", help=f"{name}; default newest."
    )
    made = verb("compare", "settings, losses and weights of two checkpoints or more")
    made.add_argument("names", nargs="+", metavar="NAME", help=f"{name}; the first is what the others are compared with.")
    made.add_argument("--no_weights", "--no-weights", action="store_true", help="Leave the weights out, which have to be read.")
    made = verb("plot", "a picture of the loss and the learning rate up to a checkpoint")
    made.add_argument("name", nargs="?", default="newest", help=f"{name}; default newest.")
    made.add_argument("--save", type=Path, required=True, metavar="FILE", help="Where the picture goes: .png, .svg or .pdf.")
    made = verb("verify", "read every file of a checkpoint and compare it with the manifest; exit code 7 if anything is wrong")
    made.add_argument("names", nargs="*", metavar="NAME", help=f"{name}; all if not given.")
    verb("status", "whether the run goes on, how it ended, and where it can be resumed")
    made = verb("upload", "send checkpoints of a run that does not go on to its store, and what else is not there")
    made.add_argument("names", nargs="*", metavar="NAME", help=name)
    made.add_argument("--all", action="store_true", help="All committed checkpoints; what is there already is not sent again.")
    made.add_argument("--remote", metavar="URL", help="Where to, as for pretrain; needed only if the run had no --remote.")
    made = verb("download", "fetch a checkpoint of a run in a store, verified, into a folder to go on in with --resume")
    made.add_argument("name", nargs="?", default="newest", help=f"{name}; default newest.")
    made.add_argument("--output_dir", "--output-dir", type=Path, metavar="DIR", help="The run's folder; default runs/<its name>.")
    made = verb("prune", "delete old checkpoints, never the newest or the best")
    made.add_argument("--keep", type=int, required=True, metavar="N", help="How many committed checkpoints stay, at least 1.")
    made.add_argument("--dry_run", "--dry-run", action="store_true", help="Say what would go and delete nothing.")
    return whole, verbs.choices


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `llmforge checkpoints`.

    Raises:
        CheckpointError: No such run or checkpoint, or a damaged one.
        CheckFailed: `verify` found something wrong.
        ConfigError: Wrong usage; `prune` of a run that goes on.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    whole, verbs = _parsers()
    if given and given[0] not in verbs and (is_url(given[0]) or Path(local_path(given[0])).is_dir()):  # what one types first
        given.insert(0, "list")
    args = whole.parse_args(given)
    actions = {"list": _list, "view": _view, "compare": _compare, "plot": _plot, "verify": _verify}
    actions |= {"status": _status, "prune": _prune}
    if args.verb in ("upload", "download"):
        _move(args)
        return
    with readable(args.run) as args.folder:
        args.url = None if isinstance(args.run, Path) else without_secrets(args.run)
        actions[args.verb](args)


def _tell(args: argparse.Namespace, value: Any, shown: Any) -> None:
    """One JSON object, or something for people."""
    if args.json:
        print(json.dumps(render.finite(value)))
    else:
        console().print(shown)


def _list(args: argparse.Namespace) -> None:
    folders = checkpoint_folders(args.folder)
    best, items = best_step(folders), [summarise(path, args.url) for path in folders]
    _tell(args, {"checkpoints": [render.as_json(item, best) for item in items]}, render.listing(items, best))


def _view(args: argparse.Namespace) -> None:
    item, best = _readable(args, find(args.folder, args.name)), best_step(checkpoint_folders(args.folder))
    histories = {"loss_history": item.losses, "learning_rate_history": item.rates}
    whole = render.as_json(item, best) | histories | {"config": item.config, "system": item.system}
    _tell(args, whole, render.details(item, best))


def _compare(args: argparse.Namespace) -> None:
    folders = [find(args.folder, name) for name in args.names]
    if len(set(folders)) < 2:
        raise ConfigError(f"llmforge checkpoints compare {' '.join(args.names)}: that is one checkpoint.", "Give two or more.")
    items = [_readable(args, path) for path in folders]
    names = sorted({name for item in items[1:] for name in config_differences(items[0].config, item.config)})
    differences = {name: [_setting(item.config, name) for item in items] for name in names}
    if args.url and not args.no_weights:
        fetch_weights(args.run, folders)
    distances = [] if args.no_weights else [weight_distances(folders[0], path) for path in folders[1:]]
    best = best_step(checkpoint_folders(args.folder))
    value = {
        "checkpoints": [render.as_json(item, best) for item in items],
        "settings": differences,
        "weight_distance": {path.name: moved for path, moved in zip(folders[1:], distances, strict=False)},
    }
    _tell(args, value, render.comparison(items, differences, distances))


def _setting(config: dict[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _plot(args: argparse.Namespace) -> None:
    item = _readable(args, find(args.folder, args.name))
    if not item.losses and not item.rates:
        raise CheckpointError(f"{item.path} has no history to draw: nothing was logged.")
    suffix = args.save.suffix.lower()
    if suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--save {args.save} is no picture's name.", "Give one that ends in .png, .svg or .pdf.")
    render.draw(item, args.save)
    _tell(args, {"picture": str(args.save), "checkpoint": item.path.name}, render.cell(f"Wrote {args.save}"))


def _readable(args: argparse.Namespace, path: Path) -> Any:
    """A summary, refused where the checkpoint's own JSON cannot be read; other damage is `verify`'s to tell."""
    item = summarise(path, args.url)
    for problem in item.problems:
        if "damaged" in problem:
            raise CheckpointError(problem)
    return item


def _verify(args: argparse.Namespace) -> None:
    folders = [find(args.folder, name) for name in args.names] or checkpoint_folders(args.folder)
    problems = {path.name: verify_remote(args.run, path) if args.url else verify(path) for path in folders}
    bad = {name: found for name, found in problems.items() if found}
    lines = [f"{name}: {'; '.join(found) if found else 'sound'}" for name, found in problems.items()]
    _tell(args, {"checkpoints": problems, "sound": not bad}, render.lines(lines))
    if bad:
        name, found = next(iter(bad.items()))
        what = f"{len(bad)} of {len(problems)} checkpoints are" if len(problems) > 1 else f"{name} is"
        raise CheckFailed(f"{what} not sound: {name}: {printable(found[0])}.", "--resume takes the newest that is sound.")


def _status(args: argparse.Namespace) -> None:
    value = run_status(args.folder, args.url)
    _tell(args, value, render.standing(value))


def _move(args: argparse.Namespace) -> None:
    from llmforge.checkpoints.transfer import download, upload  # with fsspec behind it, which the other verbs do without

    set_up_logging()
    if args.verb == "download":
        url = args.run if isinstance(args.run, str) else args.run.resolve().as_uri()
        value = download(url, args.name, args.output_dir)
        shown = f"{value['checkpoint']}: {format_bytes(value['bytes'])} from {value['from']}"
    elif isinstance(args.run, str):
        raise ConfigError(
            f"upload takes a folder of this machine, not {without_secrets(args.run)}.", "Give the run's folder first."
        )
    else:
        value = upload(args.run, args.names, args.all, args.remote)
        shown = f"{len(value['uploaded'])} checkpoints at {value['remote']}, {format_bytes(value['bytes'])} sent"
    _tell(args, value, render.cell(shown))


def _prune(args: argparse.Namespace) -> None:
    if args.url:
        raise ConfigError(f"prune deletes in a folder of this machine, not in {args.url}.", "There --remote_total_limit does.")
    if args.keep < 1:
        raise ConfigError(f"--keep {args.keep} would keep none.", "Give at least 1.")
    folders = checkpoint_folders(args.folder)
    lock = None if args.dry_run else RunLock(args.folder)  # a run that goes on minds its own
    try:
        by_step = {checkpoint_step(path) or 0: path for path in folders if is_committed(path)}
        best = best_step(folders)
        going = [by_step[step] for step in superfluous(by_step, args.keep, [] if best is None else [best])]
        gone: list[str] = []
        for path in going:
            if not args.dry_run:
                delete(path)
            gone.append(path.name)
    except LlmforgeError as error:
        raise type(error)(f"{error.problem} Deleted before that: {', '.join(gone) or 'none'}.", error.remedy) from error
    finally:
        if lock is not None:
            lock.release()
    kept = [path.name for path in folders if path.name not in gone]
    what = "would be deleted" if args.dry_run else "deleted"
    lines = [f"{what}: {', '.join(gone) or 'none'}", f"kept: {', '.join(kept)}"]
    _tell(args, {"deleted": gone, "kept": kept, "dry_run": args.dry_run}, render.lines(lines))


if __name__ == "__main__":
    sys.exit(run_command(main))
