"""What run_ranks' fork server imports once for all ranks of a session."""

import os

import torch
import torch.distributed.fsdp
import torch.distributed.tensor

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401
