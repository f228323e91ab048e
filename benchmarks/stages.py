"""``backmap-openmm`` in this process, with the wall time and the peak memory of each of its stages.

Meant to be started by ``performance.py``, a process for each run. The product has no clocks for this: its functions are
wrapped here, after they were loaded. Times are exclusive: what a stage spends in another counts for that one alone.
"""

from __future__ import annotations

import builtins
import functools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import click

#: what is wrapped: functions and methods by stage; those that a version of the package lacks are passed over
STAGES = {
    "start-up": ("generators.base:load_generator", "generators.base:find_model", "energy.platforms:best_platform"),
    "reading": ("io.readers:open_cg", "io.readers:_gro_frames", "io.readers:_trajectory_frames"),
    "target": ("job:match_beads", "job:whole_beads", "job:Job.topology"),
    "environments": ("environments.local:TargetTables.__init__", "environments.local:BeadSurroundings.__init__",
                     "environments.local:BeadSurroundings.environment",
                     "environments.local:BeadSurroundings.neighbours", "sampling.colouring:colour_beads"),
    "domains": ("sampling.domains:Division.__init__", "sampling.domains:Division.part"),
    "network": ("generators.flow.generator:FlowGenerator._draw", "generators.dbm.network:DBMNetwork.forward"),
    "checks": ("sampling.faults:faulty_beads", "sampling.faults:Nearby.faulty", "refine.pipeline:_Run._defects",
               "geometry.checks:inverted_centres", "geometry.checks:pierced_rings", "geometry.checks:close_contacts"),
    "projection": ("refine.projection:project", "refine.projection:satisfy_bonds"),
    "energies": ("refine.pipeline:Refiner.context", "refine.pipeline:_Run._energies", "refine.pipeline:_Run._forces",
                 "refine.blocks:_BondLengths.of"),
    "minimisation": ("refine.pipeline:_Run._relaxed", "refine.pipeline:_Run._exact_minimum"),
    "dynamics": ("refine.pipeline:_Run._equilibrated",),
    "writing": ("io.writers:TrajectoryWriter.__enter__", "io.writers:TrajectoryWriter.write",
                "io.writers:TrajectoryWriter.__exit__"),
}
REST = "rest"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: beads of one pass by which the network's work is counted
_COUNTED = 8


class Clock:
    """Exclusive wall time, processor time (both s) and peak memory (MB) by stage.

    ``launched`` is when the process was started, in seconds since 1970.
    """

    def __init__(self, launched: float):
        self.seconds: dict[str, float] = defaultdict(float)
        self.processor: dict[str, float] = defaultdict(float)
        self.peak_mb: dict[str, float] = defaultdict(float)
        self.gpu = None
        self._stack = ["start-up"]
        self._last, self._used = time.perf_counter() - (time.time() - launched), 0.0

    def turn_to(self, stage: str | None) -> None:
        """From here on it is ``stage``; with None, what it was before the last one began."""
        if self.gpu is not None:
            self.gpu.synchronize()
        now, used, current = time.perf_counter(), time.process_time(), self._stack[-1]
        self.seconds[current] += now - self._last
        self.processor[current] += used - self._used
        self._last, self._used = now, used
        self.peak_mb[current] = max(self.peak_mb[current], _peak_mb())
        if stage is None:
            self._stack.pop()
        else:
            self._stack.append(stage)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.turn_to(name)
        try:
            yield
        finally:
            self.turn_to(None)

    def timed(self, name: str, function: Callable) -> Callable:
        """``function``, with its time counted as that of stage ``name``; of a generator, that of each item."""
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            with self.stage(name):
                result = function(*args, **kwargs)
            return self._items(name, result) if isinstance(result, Iterator) else result

        return wrapper

    def _items(self, name: str, items: Iterator) -> Iterator:
        while True:
            with self.stage(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


def _peak_mb() -> float:
    """The most memory since this was asked for the last time; where the system keeps no such mark, since the start."""
    try:
        peak = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        _CLEAR.write_text("5")
        return int(peak.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform != "darwin" else 1) / 1e6


def wrap_stages(clock: Clock) -> None:
    """Wrap what :data:`STAGES` names, wherever it was imported to, and imports, which belong to the start."""
    for stage, places in STAGES.items():
        for place in places:
            module_name, _, name = place.partition(":")
            try:
                module = import_module(f"openmm_backmap.{module_name}")
            except ModuleNotFoundError:
                continue
            owner = functools.reduce(lambda o, part: getattr(o, part, None), name.split(".")[:-1], module)
            last = name.split(".")[-1]
            if hasattr(owner, last):
                _replace(owner, last, clock.timed(stage, getattr(owner, last)))
    builtins.__import__ = _timed_import(clock, builtins.__import__)


def _replace(owner, name: str, new: Callable) -> None:
    old = getattr(owner, name)
    setattr(owner, name, new)
    for module in [m for key, m in sys.modules.items() if key.startswith("openmm_backmap")]:
        if vars(module).get(name) is old:
            setattr(module, name, new)


def _timed_import(clock: Clock, plain: Callable) -> Callable:
    def timed(name, globals=None, locals=None, fromlist=(), level=0):
        if level or name in sys.modules:
            return plain(name, globals, locals, fromlist, level)
        with clock.stage("start-up"):
            return plain(name, globals, locals, fromlist, level)

    return timed


class Passes:
    """Beads that a flow network drew, by the shape of their environments; and the work of a pass."""

    def __init__(self):
        self.beads: dict[tuple[int, int], int] = defaultdict(int)
        self.calls, self._examples, self._network, self._steps = 0, {}, None, 0

    def watch(self) -> None:
        """Count what ``FlowGenerator._draw`` draws from now on."""
        from openmm_backmap.generators.flow.generator import FlowGenerator

        plain = FlowGenerator._draw

        @functools.wraps(plain)
        def counted(generator, env, *rest):
            key = env.slot.shape[1], env.position.shape[1]
            self.beads[key] += len(env.slot)
            self.calls += 1
            self._network, self._steps = generator.network, generator.sampling.steps
            if key not in self._examples:
                few = {name: value[:_COUNTED].clone() for name, value in vars(env).items()}
                self._examples[key] = len(few["slot"]), type(env)(**few)
            return plain(generator, env, *rest)

        FlowGenerator._draw = counted

    def flop(self) -> float:
        """Floating-point operations of the matrix products of all passes; other work of the network is not counted."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode

        total = 0.0
        for key, (size, env) in self._examples.items():
            # Counted where attention is products of matrices; fused kernels do the same, uncounted.
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
                context, x = self._network.encode(env), torch.zeros(*env.slot.shape, 3, device=env.slot.device)
                encoding = counter.get_total_flops()
                self._network.velocity(context, x, x.new_zeros(1))
            velocity = counter.get_total_flops() - encoding
            total += (encoding + 2 * self._steps * velocity) * self.beads[key] / size
        return total


def matrix_products(device: str) -> dict[str, float]:
    """FLOP/s of a product of large matrices, the best of several, by data type."""
    import torch

    n = 8192 if device.startswith("cuda") else 2048
    rates = {}
    for kind in (torch.float32, torch.bfloat16):
        a, best = torch.randn(n, n, device=device).to(kind), float("inf")
        for _ in range(4):
            begun = time.perf_counter()
            (a @ a)[0, 0].item()
            best = min(best, time.perf_counter() - begun)
        rates[str(kind).removeprefix("torch.")] = 2 * n**3 / best
    return rates


def _adjusted(load: Callable, gibbs: int | None, sampling: dict[str, int]) -> Callable:
    """``load_generator`` with another number of Gibbs sweeps, and other settings of sampling."""
    @functools.wraps(load)
    def adjusted(*args, **kwargs):
        generator = load(*args, **kwargs)
        if gibbs is not None:
            generator.sweeps = replace(generator.sweeps, gibbs=gibbs)
        if sampling:
            generator.sampling = replace(generator.sampling, **sampling)
        return generator

    return adjusted


def _use(root: Path) -> None:
    """Import the package from a checkout at ``root``; its ``cli`` lies beside it there."""
    sys.path.insert(0, str(root))
    import openmm_backmap

    if Path(openmm_backmap.__file__).parents[1] != root:
        raise click.ClickException(f"the package was imported from {openmm_backmap.__file__}, not from {root}")
    openmm_backmap.__path__.append(str(root))


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--root", type=click.Path(path_type=Path, resolve_path=True), required=True, help="Checkout to measure.")
@click.option("--launched", type=float, required=True, help="When this process was started, seconds since 1970.")
@click.option("--gibbs", type=int, help="Gibbs sweeps; those of the model's family by default.")
@click.option("--steps", type=int, help="Steps of the flow; those of the model by default.")
@click.option("--ensemble", type=int, help="Candidates of dbm; those of the model by default.")
@click.option("--result", type=click.Path(path_type=Path, resolve_path=True), required=True, help="JSON to write.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def main(root: Path, launched: float, gibbs: int | None, steps: int | None, ensemble: int | None, result: Path,
         words: tuple[str, ...]) -> None:
    """Run ``backmap-openmm WORDS`` and write what its stages took."""
    clock, passes = Clock(launched), Passes()
    _use(root)
    app = import_module("openmm_backmap.cli.app").app
    base = import_module("openmm_backmap.generators.base")
    import_module("openmm_backmap.cli.run")
    passes.watch()
    sampling = {name: n for name, n in (("steps", steps), ("n_ensemble", ensemble)) if n is not None}
    _replace(base, "load_generator", _adjusted(base.load_generator, gibbs, sampling))
    wrap_stages(clock)
    import torch

    device = base.pick_device(None)
    clock.gpu = torch.cuda if device.startswith("cuda") else None
    with clock.stage(REST):
        app.main(args=["run", *words], prog_name="backmap-openmm", standalone_mode=False)
    total = sum(clock.seconds.values())
    found = {"seconds": total, "peak_mb": max(clock.peak_mb.values()), "stage_seconds": dict(clock.seconds),
             "stage_processor_seconds": dict(clock.processor),
             "stage_peak_mb": dict(clock.peak_mb), "device": device, "network_passes": passes.calls,
             "beads_drawn": sum(passes.beads.values()), "network_flop": passes.flop(),
             "matrix_flop_per_s": matrix_products(device), "threads": torch.get_num_threads()}
    if clock.gpu:
        found["gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
