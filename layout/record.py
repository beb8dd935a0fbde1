#!/usr/bin/env python3
"""Writes hot.ld: which functions a running node needs, so that they lie together in the program.

Builds picored with its symbols, lets the memory measurement run on it (cargo bench --bench footprint -- memory), and puts
a breakpoint at the beginning of every function of each node once it has started. A function that is reached is noted and
its breakpoint taken away. Needs Linux on x86-64, nm, and the right to trace one's own processes; takes as long as a
release build. To be run again when the figures of that measurement have grown: names that no function has any more do no
harm, but what is not named lies apart.
"""
import ctypes
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# Seconds after its start in which a node compiles its handlers in children; these would run into the breakpoints.
START = 2.5
# Longer than the measurement takes.
LONGEST = 60.0

HEAD = """/* The code that a running node needs, in one place, so that the kernel maps little else with it: of the rest of the
   program most is the compiler, which works in a process of its own, and what runs once. Written by record.py, given to
   the linker by build.rs. Names are as the compiler mangles them, without the hash that differs from build to build. */
SECTIONS
{
  .text.hot_path :
  {
"""
TAIL = """  }
}
INSERT BEFORE .text;
"""


def main():
    binary = build()
    with tempfile.TemporaryDirectory() as folder:
        wrapper = pathlib.Path(folder, "picored")
        trace = shlex.join([sys.executable, __file__, "--trace", str(binary), folder])
        wrapper.write_text(f'#!/bin/sh\n[ "$1" = run ] && {trace} $$ &\nexec {shlex.quote(str(binary))} "$@"\n')
        wrapper.chmod(0o755)
        command = ["cargo", "bench", "--locked", "--profile", "dev", "--bench", "footprint", "--", "memory"]
        # Its figures mean nothing here, nor does it matter that they are above what is wanted.
        subprocess.run([*command, "--picored", wrapper], cwd=HERE.parent)
        wait_for_tracers(folder)
        found = [line for file in pathlib.Path(folder).glob("*.found") for line in file.read_text().split()]
    names = sorted({re.sub(r"17h[0-9a-f]{16}E(\.llvm\.\d+)?$", "17h*", name) for name in found})
    if len(names) < 1000:
        sys.exit(f"only {len(names)} functions were reached: hot.ld is left as it is")
    (HERE / "hot.ld").write_text(HEAD + "".join(f"    *(.text.{name})\n" for name in names) + TAIL)
    print(f"hot.ld: {len(names)} names")


def build():
    environment = {**os.environ, "CARGO_PROFILE_RELEASE_STRIP": "none"}
    target = HERE.parent / "target" / "layout"
    command = ["cargo", "build", "--locked", "--release", "--bin", "picored", "--target-dir", target]
    subprocess.run(command, cwd=HERE.parent, env=environment, check=True)
    return target / "release" / "picored"


def wait_for_tracers(folder):
    deadline = time.monotonic() + LONGEST
    while any(pathlib.Path(folder).glob("*.tracing")) and time.monotonic() < deadline:
        time.sleep(0.1)


class Process:
    """A process that is traced: all of its threads, by ptrace(2)."""

    CONT, GETREGS, SETREGS, SEIZE, INTERRUPT = 7, 12, 13, 0x4206, 0x4207
    TRACE_CLONE, EVENT_CLONE = 8, 3
    EVENT_STOP = 128
    ALL_THREADS = 0x40000000
    RIP = 16

    def __init__(self, pid):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self.libc.ptrace.restype = ctypes.c_long
        self.registers = (ctypes.c_ulonglong * 27)()
        self.memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        self.threads = {int(thread) for thread in os.listdir(f"/proc/{pid}/task")}
        for thread in self.threads:
            self.ptrace(self.SEIZE, thread, self.TRACE_CLONE)
            self.ptrace(self.INTERRUPT, thread)
            os.waitpid(thread, self.ALL_THREADS)

    def ptrace(self, request, thread, data=0):
        if self.libc.ptrace(request, thread, 0, data) < 0:
            raise OSError(ctypes.get_errno(), f"ptrace request {request}")

    def follow(self, breakpoints):
        """Runs until the process ends. `breakpoints`: the byte that stood at each address; those reached are returned."""
        reached = set()
        for thread in self.threads:
            self.ptrace(self.CONT, thread)
        while self.threads:
            thread, status = os.waitpid(-1, self.ALL_THREADS)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self.threads.discard(thread)
                continue
            event, number = status >> 16, os.WSTOPSIG(status)
            if event == self.EVENT_STOP:
                self.threads.add(thread)
            try:
                is_ours = number == signal.SIGTRAP and event == 0 and self.step_back(thread, breakpoints, reached)
                passed_on = 0 if is_ours or event in (self.EVENT_CLONE, self.EVENT_STOP) else number
                self.ptrace(self.CONT, thread, passed_on)
            except ProcessLookupError:
                pass
        return reached

    def step_back(self, thread, breakpoints, reached):
        self.ptrace(self.GETREGS, thread, ctypes.addressof(self.registers))
        address = self.registers[self.RIP] - 1
        if address not in breakpoints:
            return False
        if address not in reached:
            reached.add(address)
            os.pwrite(self.memory, breakpoints[address], address)
        self.registers[self.RIP] = address
        self.ptrace(self.SETREGS, thread, ctypes.addressof(self.registers))
        return True


def trace(binary, folder, pid):
    mark = pathlib.Path(folder, f"{pid}.tracing")
    mark.touch()
    try:
        time.sleep(START)
        maps = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
        base = next(int(line.split("-")[0], 16) for line in maps if line.endswith(binary))
        process = Process(pid)
        functions, breakpoints = {}, {}
        for line in subprocess.run(["nm", binary], capture_output=True, text=True, check=True).stdout.splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[1] in "tT" and fields[2].startswith("_"):
                functions.setdefault(base + int(fields[0], 16), fields[2])
        for address in functions:
            breakpoints[address] = os.pread(process.memory, 1, address)
            os.pwrite(process.memory, b"\xcc", address)
        reached = process.follow(breakpoints)
        pathlib.Path(folder, f"{pid}.found").write_text("\n".join(functions[address] for address in reached))
    finally:
        mark.unlink()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trace"]:
        trace(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
