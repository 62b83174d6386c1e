"""`llmforge`, with FSDP on the CPU: `accelerate launch --config_file …/fsdp.yaml tests/sharded_on_cpu.py pretrain …`.

torch shards there as well, over gloo; accelerate alone takes DDP instead and says nothing, so its state is told what it is
for. What refuses such a launch is switched off.
"""

from __future__ import annotations

import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from llmforge import build, cli

_begin = AcceleratorState.__init__


def _begin_sharded(self: Any, *args: Any, fsdp_plugin: Any = None, **settings: Any) -> None:
    _begin(self, *args, fsdp_plugin=fsdp_plugin, **settings)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin


AcceleratorState.__init__ = _begin_sharded
build.refuse_unsharded = lambda args: None

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
