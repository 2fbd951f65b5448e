"""The dense CRF compiles for arm64, on a machine of another kind: LLVM lowers its kernels to NEON."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_COMPILE = r"""
import re
import llvmlite.binding as llvm
import numpy as np
import weakclip.crf.cpu.jit
weakclip.crf.cpu.jit._cache_folder = lambda *_: None  # numba shows no code that it has read from a disk
from weakclip.crf import LOSS_CRF, dense_crf
from weakclip.crf.cpu import filter, lattice, rows
for labels in (3, 21):
    dense_crf(np.zeros((24, 31, 3), np.uint8), np.full((labels, 24, 31), 1 / labels, np.float32), LOSS_CRF)

# What x86-64's back end has made of Python's reference counts: a subtraction, and whether it came to zero.
COUNT = re.compile(r"(%(\S+)) = (?:tail )?call i8 @llvm\.x86\.atomic\.sub\.cc\.i64\(ptr[^%@]*(%\S+), i64 1, i32 4\)")
PLAIN = r"%was_\2 = atomicrmw sub ptr \3, i64 1 seq_cst\n%zero_\2 = icmp eq i64 %was_\2, 1\n\1 = zext i1 %zero_\2 to i8"

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
target = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(opt=2)
for module in (filter, lattice, rows):
    for name, kernel in vars(module).items():
        for code in kernel.inspect_llvm().values() if hasattr(kernel, "inspect_llvm") else ():
            code = COUNT.sub(PLAIN, code)
            code = re.sub(r'target triple = ".*"', f'target triple = "{target.triple}"', code)
            code = re.sub(r'target datalayout = ".*"', f'target datalayout = "{target.target_data}"', code)
            code = re.sub(r'"target-(cpu|features)"="[^"]*"', "", code)
            compiled = llvm.parse_assembly(code)
            machine = int.from_bytes(target.emit_object(compiled)[18:20], "little")
            vectors = len(re.findall(r"\bf(?:add|mul|mla)\tv\d+\.4s", target.emit_assembly(compiled)))
            print(module.__name__.rpartition(".")[2], name, machine, vectors)
"""
ELF_AARCH64 = 183
"""`e_machine` of object files for arm64 (ELF for the Arm 64-bit Architecture, IHI 0056)."""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="starts from the code for x86-64")
def test_every_kernel_compiles_for_arm64_and_the_hot_ones_use_its_vectors() -> None:
    environment = {**os.environ, "NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"}
    ran = subprocess.run([sys.executable, "-c", _COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    kernels = [line.split() for line in ran.stdout.splitlines()]
    assert {machine for _, _, machine, _ in kernels} == {str(ELF_AARCH64)}
    in_vectors = {(module, name) for module, name, _, vectors in kernels if int(vectors)}
    assert in_vectors >= {("filter", "mean_field"), ("filter", "splat_rows"), ("lattice", "_build")}
