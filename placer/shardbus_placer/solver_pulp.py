"""Solving integer programs with PuLP: HiGHS in this process, or CBC where HiGHS is not installed.

The only module that knows a solver. PuLP says "Optimal" even when a solver stopped at its time limit, so the
answer is read from the solver's own status and bound. The deadline is ours: the solver runs on a thread of its
own, and if it has not come back in time it is left to its own time limit and its answer is not waited for.
"""

import functools
import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from shardbus_placer.formulation import INFINITY, LinearModel

Status = Literal["optimal", "feasible", "infeasible", "deadline", "failed"]
GRACE_SECONDS = 0.01
"""How much sooner than we stop waiting a solver is told to stop."""

BUILD_SECONDS = 10e-6
"""What a column or row takes to build, at the least: a program that cannot even be built in time is not begun."""


@dataclass(frozen=True)
class Solution:
    """What a solver found. ``bound`` holds for every solution of the program, in the program's units."""

    status: Status
    solver: str
    values: tuple[float, ...] = ()
    """One per column; empty unless ``optimal`` or ``feasible``."""
    bound: float | None = None
    detail: str = ""


def solve(model: LinearModel, seconds: float) -> Solution:
    """Return the best solution found within ``seconds`` of wall time.

    ``infeasible`` is a proof. ``deadline``: nothing was found in time. ``failed``: the solver broke, or none is
    installed; ``detail`` says how.
    """
    if seconds <= GRACE_SECONDS + BUILD_SECONDS * (len(model.lower) + len(model.rows)):
        return Solution("deadline", solver_name())
    answer: list[Solution] = []
    done = threading.Event()

    def work() -> None:
        try:
            answer.append(_solve(model, seconds - GRACE_SECONDS))
        except Exception as error:  # noqa: BLE001 - whatever breaks in a solver, a greedy plan must still be given
            answer.append(Solution("failed", solver_name(), detail=f"{type(error).__name__}: {error}"))
        finally:
            done.set()

    # Not a daemon: the interpreter must not be torn down under a solver that still runs to its own time limit.
    threading.Thread(target=work, name="placement-solver").start()
    done.wait(seconds)
    return answer[0] if answer else Solution("deadline", solver_name(), detail="the solver did not return in time")


def solver_name() -> str:
    """Return which solver is used here: ``HiGHS``, ``CBC``, or ``none``."""
    return _backend()[0]


def warm_up() -> None:
    """Load the solver, which takes some tenths of a second once per process; later calls return at once."""
    _ = _backend()


@functools.cache
def _backend() -> tuple[str, Callable[[LinearModel, float], Solution] | None]:
    try:
        pulp: Any = importlib.import_module("pulp")
    except ImportError:
        return "none", None
    try:
        highspy: Any = importlib.import_module("highspy")
    except ImportError:
        return "CBC", functools.partial(_solve_cbc, pulp)
    solver = _highs_solver(pulp, highspy)
    return "HiGHS", functools.partial(_solve_highs, pulp, highspy, solver)


def _solve(model: LinearModel, seconds: float) -> Solution:
    name, run = _backend()
    if run is None:
        return Solution("failed", name, detail="no solver is installed: install shardbus[placer]")
    return run(model, seconds)


def _highs_solver(pulp: Any, highspy: Any) -> Any:
    """Return PuLP's HiGHS class without the banner that HiGHS prints to standard output."""

    class Quiet(highspy.Highs):
        def enableCallbacks(self) -> None:  # noqa: N802 - HiGHS' name
            self.silent()  # before the first thing that prints
            super().enableCallbacks()  # pyright: ignore[reportUnknownMemberType] - highspy is loaded late, untyped

    class QuietSolver(pulp.HiGHS):
        def createAndConfigureSolver(self, lp: Any) -> None:  # noqa: N802 - PuLP's name
            lp.solverModel = Quiet()
            for option, value in self.optionsDict.items():
                lp.solverModel.setOptionValue(option, value)

    return QuietSolver


def _problem(pulp: Any, model: LinearModel) -> tuple[Any, list[Any]]:
    """Return the program as PuLP's objects. Names are numbered with leading zeros: PuLP sorts columns by name."""
    program = pulp.LpProblem(model.name, pulp.LpMinimize)
    columns = [
        program.add_variable(
            f"c{index:06d}",
            None if lower == -INFINITY else lower,
            None if upper == INFINITY else upper,
            pulp.LpInteger if integer else pulp.LpContinuous,
        )
        for index, (lower, upper, integer) in enumerate(zip(model.lower, model.upper, model.integer, strict=True))
    ]
    program.setObjective(pulp.LpAffineExpression({columns[index]: cost for index, cost in model.objective.items()}))
    for terms, lower, upper in model.rows:
        if not terms and lower <= 0 <= upper:
            continue
        expression = pulp.LpAffineExpression({columns[index]: value for index, value in terms.items()})
        if lower == upper:
            program.addConstraint(pulp.LpConstraint(expression, pulp.LpConstraintEQ, rhs=lower))
            continue
        if upper < INFINITY:
            program.addConstraint(pulp.LpConstraint(expression, pulp.LpConstraintLE, rhs=upper))
        if lower > -INFINITY:
            program.addConstraint(pulp.LpConstraint(expression, pulp.LpConstraintGE, rhs=lower))
    return program, columns


def _solve_highs(pulp: Any, highspy: Any, solver: Any, model: LinearModel, seconds: float) -> Solution:
    began = time.monotonic()
    program, columns = _problem(pulp, model)
    left = seconds - (time.monotonic() - began)
    if left <= 0:
        return Solution("deadline", "HiGHS", detail="the program took all the time to build")
    options = {
        "time_limit": left,
        "threads": 1,
        "mip_rel_gap": 1e-9,
        "mip_abs_gap": 1e-9,
        "mip_feasibility_tolerance": 1e-9,
        "primal_feasibility_tolerance": 1e-9,
        "random_seed": 0,
    }
    program.solve(solver(msg=False, **options))
    engine = program.solverModel
    status = engine.getModelStatus()
    info = engine.getInfo()
    bound = float(info.mip_dual_bound)
    statuses = highspy.HighsModelStatus
    impossible = (statuses.kInfeasible, statuses.kUnboundedOrInfeasible)
    if status in impossible:
        # HiGHS 1.16's presolve calls some programs infeasible that are not: nothing is refused on its word alone.
        left = seconds - (time.monotonic() - began)
        if left <= 0:
            return Solution("deadline", "HiGHS", detail="there was no time to check that there is no solution")
        program, columns = _problem(pulp, model)
        program.solve(solver(msg=False, **(options | {"time_limit": left, "presolve": "off"})))
        engine = program.solverModel
        status, info = engine.getModelStatus(), engine.getInfo()
        bound = float(info.mip_dual_bound)
        if status in impossible:
            return Solution("infeasible", "HiGHS")
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    values = tuple(float(column.varValue) for column in columns) if found else ()
    known = bound if abs(bound) < highspy.kHighsInf else None
    if status == statuses.kOptimal and found:
        return Solution("optimal", "HiGHS", values, known)
    return Solution("feasible" if found else "deadline", "HiGHS", values, known, detail=str(status))


def _solve_cbc(pulp: Any, model: LinearModel, seconds: float) -> Solution:
    program, columns = _problem(pulp, model)
    # The CBC in PuLP's own wheel, by its path: PuLP's class for it is deprecated.
    bundled = pulp.PULP_CBC_CMD.pulp_cbc_path
    program.solve(pulp.COIN_CMD(path=bundled, msg=False, timeLimit=seconds, threads=1, gapRel=0.0, gapAbs=1e-9))
    if program.sol_status == pulp.LpSolutionInfeasible:
        return Solution("infeasible", "CBC")
    if program.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return Solution("deadline", "CBC", detail=pulp.LpSolution.get(program.sol_status, ""))
    values = tuple(float(column.varValue or 0.0) for column in columns)
    if program.sol_status == pulp.LpSolutionOptimal:
        value = sum(cost * values[index] for index, cost in model.objective.items())
        return Solution("optimal", "CBC", values, value)
    return Solution("feasible", "CBC", values)
