"""What follows an upload: retention in the store, by its own limit, and of uploaded checkpoints here."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from llmforge.checkpoints import retention
from llmforge.checkpoints.courier import Courier
from llmforge.checkpoints.manifest import checkpoint_step, list_checkpoints
from llmforge.checkpoints.uploads import Uploads


def tidy_store(
    courier: Courier, uploads: Uploads, run_id: str, limit: int | None, pinned: Collection[int], waiting: Collection[int]
) -> None:
    """Delete the checkpoints in the store that can go, and what uploads and deletions that were broken off have left.

    Args:
        limit: How many stay, as ``--remote_total_limit``.
        pinned: Steps that stay whatever the limit; the newest always does.
        waiting: Steps that are still to be uploaded, of which some files may be there.

    Raises:
        RemoteError: The store failed.
    """
    steps = {checkpoint_step(Path(name)) or 0 for name in courier.ask("checkpoints")}
    for step in retention.superfluous(steps, limit, pinned):
        name = f"checkpoint-{step}"
        if courier.ask("delete_checkpoint", name, run_id, True):
            uploads.gone(name, "deleted")
    halves = set(courier.ask("leftovers"))
    known = uploads.copy().checkpoints.keys()
    for name in sorted(halves):
        if name in known and checkpoint_step(Path(name)) not in waiting and courier.ask("delete_checkpoint", name, run_id, True):
            uploads.gone(name, "deleted")
            halves.remove(name)
    uploads.forget_past(halves)


def release_local(run_dir: Path, uploads: Uploads, pinned: Collection[int]) -> None:
    """Delete the checkpoints here that were uploaded, but for the newest and the `pinned`.

    One that the store has dropped since, by its own limit, was uploaded too: it is among the oldest, and kept in
    neither place. One that never arrived stays for the limit of this disk to judge.
    """
    sent = {name for name, upload in uploads.copy().checkpoints.items() if upload.state in ("done", "deleted")}
    here = {checkpoint_step(path) or 0 for path in list_checkpoints(run_dir) if path.name not in sent}
    retention.prune(run_dir, 1, here | set(pinned))
