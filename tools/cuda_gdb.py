"""Commands of gdb for kernels in the emulator, as cuda-gdb has for kernels on a GPU.

``make emulator-debug`` compiles the kernels for it, and gdb reads this file with ``-x``:

    CCONVNET_MODULE_PATH=build/debug gdb -x tools/cuda_gdb.py --args .venv/bin/python program.py

The commands (``help cuda`` lists them):

    cuda thread                                 the kernel, block and thread that run
    cuda threads                                all threads of the block: where each waits
    cuda break lrn.cu:71 thread 3 block 1,0     stop in one thread alone
    cuda at 5 backtrace                         a command of gdb in another thread of the block

A position is X, X,Y or X,Y,Z. The page docs/debugging-kernels.md shows a session.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import gdb

# The words that switch_stack (fiber.h) leaves on the stack of a thread that waits, from its stack pointer on.
SAVED = ("control words", "r15", "r14", "r13", "r12", "rbx", "rbp", "rip")
Position = tuple[int, int, int]


def machine() -> gdb.Value:
    """Return the emulator's machine (machine.h)."""
    symbol = gdb.lookup_global_symbol("cconvnet::emulator::machine")
    if symbol is None:
        raise gdb.GdbError("no emulator with symbols is loaded: make emulator-debug, CCONVNET_MODULE_PATH")
    return symbol.value()


def running_machine() -> gdb.Value:
    """Return the machine while a kernel runs."""
    found = machine()
    if not found["running_"]:
        raise gdb.GdbError("no kernel runs now")
    return found


def triple(value: gdb.Value) -> Position:
    """Return the three numbers of a uint3 or dim3."""
    return int(value["x"]), int(value["y"]), int(value["z"])


def text(position: Position) -> str:
    """Return a position as CUDA's tools print it."""
    return f"({position[0]},{position[1]},{position[2]})"


def parse(word: str) -> Position:
    """Return the position that X, X,Y or X,Y,Z means."""
    if not re.fullmatch(r"\d+(,\d+){0,2}", word):
        raise gdb.GdbError(f"a position is X, X,Y or X,Y,Z, not {word!r}")
    numbers = [int(number) for number in word.split(",")]
    x, y, z = numbers + [0] * (3 - len(numbers))
    return x, y, z


def kernel(found: gdb.Value) -> str:
    """Return the name of the kernel that runs."""
    characters = found["kernel_"]["_M_dataplus"]["_M_p"]
    return characters.string().removeprefix("(").removesuffix(")")


def number_of(found: gdb.Value, position: Position) -> int:
    """Return the number of a thread in its block."""
    size = triple(found["block_dim"])
    if any(at >= most for at, most in zip(position, size, strict=True)):
        raise gdb.GdbError(f"the block has {text(size)} threads; there is no {text(position)}")
    return position[0] + size[0] * (position[1] + size[1] * position[2])


def first_thread(found: gdb.Value) -> int:
    """Return the place of the first thread of the running block among those of its cluster."""
    return int(found["current_"]["block"]) * int(found["warp_count_"]) * 32


def current(found: gdb.Value) -> int:
    """Return the number of the running thread in its block."""
    return int(found["current_"] - found["threads_"][0].address) - first_thread(found)


def states(found: gdb.Value) -> Iterator[tuple[Position, str]]:
    """Yield the position of each thread of the block, and its state."""
    order = {int(found["round_"][i]) for i in range(int(found["round_next_"]), int(found["round_size_"]))}
    running, first = current(found), first_thread(found)
    for number in range(int(found["thread_count_"])):
        at = first + number
        thread = found["threads_"][at]
        ready = at in order or bool(int(found["ready_"][at // 32]) >> at % 32 & 1)
        if number == running:
            state = "running"
        elif not thread["fiber"]:
            state = "not begun" if ready else "returned"
        else:
            site = thread["site"]
            place = f"{site['operation'].string()}, {site['file'].string()}:{int(site['line'])}"
            state = f"{'released from' if ready else 'waiting at'} {place}"
        yield triple(thread["index"]), state


class Cuda(gdb.Command):
    """Examine the threads of a kernel in the emulator."""

    def __init__(self) -> None:
        super().__init__("cuda", gdb.COMMAND_DATA, gdb.COMPLETE_NONE, prefix=True)


class CudaThread(gdb.Command):
    """Print the kernel, block and thread that run."""

    def __init__(self) -> None:
        super().__init__("cuda thread", gdb.COMMAND_STACK)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Print one line."""
        found = running_machine()
        number = current(found)
        block = f"block {text(triple(found['block_index']))} of {text(triple(found['grid_dim']))}"
        thread = f"thread {text(triple(found['thread_index']))} of {text(triple(found['block_dim']))}"
        print(f"{kernel(found)}, {block}, {thread}: warp {number // 32}, lane {number % 32}")


class CudaThreads(gdb.Command):
    """List the threads of the block: the line where each waits, and which have not begun or have returned."""

    def __init__(self) -> None:
        super().__init__("cuda threads", gdb.COMMAND_STACK)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Print one line for each run of neighbours that do the same."""
        runs: list[list[tuple[Position, str]]] = []
        for position, state in states(running_machine()):
            if not runs or runs[-1][0][1] != state:
                runs.append([])
            runs[-1].append((position, state))
        for run in runs:
            last = f" to {text(run[-1][0])}" if len(run) > 1 else ""
            print(f"{text(run[0][0]) + last:24} {run[0][1]}")


class ThreadBreakpoint(gdb.Breakpoint):
    """Breakpoint that stops one thread, of one block or of any."""

    def __init__(self, location: str, thread: Position, block: Position | None) -> None:
        super().__init__(location)
        self.where = thread, block

    def stop(self) -> bool:
        """Return whether the thread that arrived is the one to stop."""
        found = machine()
        thread, block = self.where
        return triple(found["thread_index"]) == thread and block in (None, triple(found["block_index"]))


class CudaBreak(gdb.Command):
    """Stop one thread at a line or function: cuda break LOCATION thread X,Y,Z [block X,Y,Z]."""

    def __init__(self) -> None:
        super().__init__("cuda break", gdb.COMMAND_BREAKPOINTS, gdb.COMPLETE_LOCATION)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Set the breakpoint."""
        match = re.fullmatch(r"(\S.*?)\s+thread\s+(\S+)(?:\s+block\s+(\S+))?\s*", argument)
        if match is None:
            raise gdb.GdbError("cuda break LOCATION thread X,Y,Z [block X,Y,Z]")
        ThreadBreakpoint(match[1], parse(match[2]), parse(match[3]) if match[3] else None)


class CudaAt(gdb.Command):
    """Run a command of gdb in another thread of the block: cuda at X,Y,Z COMMAND."""

    def __init__(self) -> None:
        super().__init__("cuda at", gdb.COMMAND_STACK)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Run the command where the thread waits, in its kernel's frame."""
        word, _, command = argument.strip().partition(" ")
        if not command:
            raise gdb.GdbError("cuda at X,Y,Z COMMAND")
        found = running_machine()
        number = number_of(found, parse(word))
        if number == current(found):
            gdb.execute(command, from_tty)
            return
        fiber = found["threads_"][first_thread(found) + number]["fiber"]
        if not fiber:
            raise gdb.GdbError(f"thread {text(parse(word))} has not begun or has returned")
        if "stack_pointer_" not in (field.name for field in fiber.dereference().type.fields()):
            raise gdb.GdbError(
                "registers of waiting threads are known only where x86-64's own switch is used"
            )
        words = fiber["stack_pointer_"].cast(gdb.lookup_type("unsigned long").pointer())
        registers = {name: int(words[i]) for i, name in enumerate(SAVED) if i > 0}
        registers["rsp"] = int(words) + 8 * len(SAVED)
        selected = gdb.selected_frame().level()
        gdb.newest_frame().select()
        own = {name: int(gdb.parse_and_eval(f"(unsigned long)${name}")) for name in registers}
        try:
            write(registers)
            kernels_frame().select()
            gdb.execute(command, from_tty)
        finally:
            gdb.newest_frame().select()
            write(own)
            gdb.execute(f"frame {selected}", to_string=True)


def write(registers: dict[str, int]) -> None:
    """Write registers of the process. The stack pointer comes last, for each write reads the frame anew."""
    for name in sorted(registers, key="rsp".__eq__):
        gdb.execute(f"set ${name} = {registers[name]}", to_string=True)


def kernels_frame() -> gdb.Frame:
    """Return the innermost frame that is not the emulator's own."""
    frame = gdb.newest_frame()
    while frame is not None:
        file = frame.find_sal().symtab
        if file is not None and "/emulator/" not in file.filename and frame.name() != "__syncthreads":
            return frame
        frame = frame.older()
    return gdb.newest_frame()


for command in (Cuda, CudaThread, CudaThreads, CudaBreak, CudaAt):
    command()
gdb.execute("set breakpoint pending on")  # the module is loaded when Python imports it
