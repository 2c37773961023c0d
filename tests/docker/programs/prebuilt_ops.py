"""Run inside the train image: DeepSpeed's CPU Adam and utils are used as they were built, and compute what torch does.

Prints one JSON document. Fails where an op would have to be compiled: there is no compiler and no network.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.ops.op_builder import CPUAdamBuilder, UtilsBuilder

STEPS = 5
SIZES = (1, 1037, 100_000)  # one value, a length no vector width divides, and enough for several threads
SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def largest_difference() -> float:
    torch.manual_seed(7)
    ours = [torch.nn.Parameter(torch.randn(size)) for size in SIZES]
    reference = [torch.nn.Parameter(weight.detach().clone()) for weight in ours]
    prebuilt = DeepSpeedCPUAdam(ours, adamw_mode=True, **SETTINGS)
    torchs = torch.optim.AdamW(reference, **SETTINGS)
    before = [weight.detach().clone() for weight in ours]
    for _step in range(STEPS):
        for weight, twin in zip(ours, reference, strict=True):
            weight.grad = torch.randn_like(weight)
            twin.grad = weight.grad.clone()
        prebuilt.step()
        torchs.step()
    assert all(bool((weight != old).any()) for weight, old in zip(ours, before, strict=True)), "nothing was trained"
    return max(float((weight - twin).abs().max()) for weight, twin in zip(ours, reference, strict=True))


def main() -> None:
    adam, utils = CPUAdamBuilder().load(), UtilsBuilder().load()
    tensor = torch.arange(5.0)
    assert torch.equal(utils.cast_to_byte_tensor(tensor), tensor.view(torch.uint8))
    found = {
        "difference": largest_difference(),
        "files": {"cpu_adam": adam.__file__, "utils": utils.__file__},
        "compiled": [str(path) for path in Path(os.environ["HOME"]).glob(".cache/torch_extensions/**/*.so")],
        "compilers": [name for name in ("cc", "c++", "gcc", "g++", "clang", "ninja", "nvcc") if shutil.which(name)],
    }
    print(json.dumps(found))


main()
