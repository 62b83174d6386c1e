"""A plan as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmforge.configs.units import format_count, format_seconds
from llmforge.planning.outline import Plan
from llmforge.runtime.devices import Device, format_bytes


def memory_table(plans: Sequence[tuple[str, Plan]], device: Device) -> Any:
    """The memory of one process, a column for each way to share it out, as a rich table."""
    from rich.table import Table

    first = plans[0][1]
    batch = first.setup.batch
    table = Table(title="Memory of one process", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name, _ in plans:
        table.add_column(name, justify="right")
    checkpointing = ", checkpointed" if batch.checkpointed else ""
    labels = {
        "weights": "weights, fp32",
        "gradients": "gradients",
        "optimizer": f"optimizer state, {first.setup.optim}",
        "activations": f"activations, {batch.rows} × {batch.length:,} tokens, attention by {batch.attention}{checkpointing}",
        "loss": "loss: logits a chunk at a time" if first.setup.lean else "loss: all logits (--no-lean_loss)",
        "working": "while the optimizer steps",
        "gathered": "of the other processes",
        "snapshot": "copy of a checkpoint being written" + (" (not on the GPU)" if batch.gpu else ""),
        "allowance": "allowance: "
        + ("libraries, what the allocator wastes" if batch.gpu else "the process, what the C library keeps"),
    }
    for name, label in labels.items():
        sizes = [getattr(plan.memory, name) for _, plan in plans]
        if any(sizes):
            table.add_row(label, *(format_bytes(size) if size else "" for size in sizes))
    table.add_section()
    table.add_row(f"peak, {first.memory.moment}", *(format_bytes(plan.memory.peak) for _, plan in plans), style="bold")
    table.add_row("the device has", *(format_bytes(device.memory) for _ in plans))
    table.add_row(
        f"largest micro-batch, {first.step_rows} rows a step",
        *(f"{plan.largest_rows:,}" if plan.largest_rows else "none fits" for _, plan in plans),
    )
    return table


def run_table(plan: Plan, deadline: float | None) -> Any:
    """Speed, time and disk, as a rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="The run", title_justify="left", show_header=False, box=None, pad_edge=False)
    step_tokens = plan.step_rows * plan.setup.batch.length
    rows = {
        "model": f"{plan.preset}: {plan.setup.shape.parameters:,} parameters",
        "step": f"{plan.step_rows} rows, {step_tokens:,} tokens: micro-batch {plan.setup.batch.rows} × accumulation "
        f"{plan.setup.accumulation}" + (f" × {plan.setup.processes} processes" if plan.setup.processes > 1 else ""),
    }
    if plan.speed is None:
        rows["speed"] = "not known for this device: --probe measures it there"
    else:
        rows["speed"] = f"{plan.speed.tokens_per_second:,.0f} tokens a second ({plan.speed.source})"
    if plan.duration is not None:
        epochs = f", {plan.duration.epochs:.3g} epochs" if plan.duration.epochs is not None else ""
        rows["time"] = (
            f"{format_seconds(plan.duration.seconds)} for {plan.duration.steps:,} steps, "
            f"{format_count(plan.duration.tokens)} tokens{epochs}"
        )
        if plan.duration.evaluation_seconds >= 1:
            rows["time"] += f"; {format_seconds(plan.duration.evaluation_seconds)} of it evaluating"
    elif plan.speed is not None:
        need = 20 * plan.setup.shape.parameters
        rows["time"] = (
            f"{format_seconds(need / plan.speed.tokens_per_second)} for 20 tokens a parameter ({format_count(need)}); "
            "--max_steps or a corpus says how many steps there are"
        )
    if plan.deadline_steps is not None and deadline is not None:
        fewer = plan.duration is not None and plan.deadline_steps < plan.duration.steps
        rows["deadline"] = (
            f"{plan.deadline_steps:,} steps fit into {format_seconds(deadline)}, "
            f"{format_count(plan.deadline_steps * step_tokens)} tokens"
            + (f"; give --max_steps {plan.deadline_steps}" if fewer else "")
        )
    rows["disk"] = f"{format_bytes(plan.disk_bytes)}; a checkpoint is {format_bytes(plan.checkpoint_bytes)}"
    if plan.upload_bytes is not None:
        rows["upload"] = f"{format_bytes(plan.upload_bytes)} in all"
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def preset_table(rows: Sequence[dict[str, Any]], device: Device, deadline: float | None) -> Any:
    """Which presets fit a device, and how far they come, as a rich table."""
    from rich.table import Table

    table = Table(
        title=f"Presets on {device.name}, {format_bytes(device.memory)}", title_justify="left", box=None, pad_edge=False
    )
    heads = ["preset", "parameters", "peak", "rows at once", "tokens/s"]
    heads += [f"tokens in {format_seconds(deadline)}"] if deadline is not None else []
    heads += ["time for 20 a parameter"]
    for head in heads:
        table.add_column(head, justify="left" if head == "preset" else "right", no_wrap=head in ("preset", "peak"))
    for row in rows:
        speed = row["tokens_per_second"]
        cells = [
            row["preset"],
            format_count(row["parameters"]),
            format_bytes(row["peak"]),
            f"{row['largest_micro_batch']}" if row["largest_micro_batch"] else "none fits",
            f"{speed:,.0f}" if speed else "",
        ]
        cells += [format_count(speed * deadline) if speed else ""] if deadline is not None else []
        cells += [format_seconds(20 * row["parameters"] / speed) if speed else ""]
        table.add_row(*cells, style="" if row["largest_micro_batch"] else "dim")
    return table
