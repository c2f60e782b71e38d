"""Solving integer programs with PuLP: HiGHS in this process, or CBC where HiGHS is not installed.

The only module that knows a solver. PuLP says "Optimal" even when a solver stopped at its time limit, so the
answer is read from the solver's own status and bound. The deadline is ours: the solver runs on a thread of its
own, and if it has not come back in time it is left alone and its answer is not waited for.
"""

import atexit
import functools
import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from shardbus_placer.formulation import INFINITY, LinearModel

Status = Literal["optimal", "feasible", "infeasible", "deadline", "failed"]
GRACE_SECONDS = 0.004
"""How much sooner than we stop waiting a solver is told to stop."""
BUILD_SECONDS = 10e-6
"""What a column or row takes to build, at the least: a program that cannot even be built in time is not begun."""
MOST_STUCK = 4
"""Once so many solves have not come back, the solver is not asked again until one does: each holds a thread."""
EXIT_SECONDS = 1.0
"""How long the process waits at its end for solvers that still run."""


@dataclass(frozen=True)
class Solution:
    """What a solver found. ``bound`` holds for every solution of the program, in the program's units."""

    status: Status
    solver: str
    values: tuple[float, ...] = ()
    """One per column; empty unless ``optimal`` or ``feasible``."""
    bound: float | None = None
    detail: str = ""


class Engine(Protocol):
    """A solver that holds one program and is told what changed of it."""

    def solve(self, model: LinearModel, seconds: float, *, relaxed: bool) -> Solution:
        """Return what is found within ``seconds``; ``relaxed`` lets whole numbers be fractions."""
        ...


class Session:
    """A program that is solved, sharpened by further rows or other costs and bounds, and solved again."""

    def __init__(self, model: LinearModel) -> None:
        """Nothing is built before the first solve."""
        self.model = model
        self._engine: Engine | None = None
        self._lost = False

    def solve(self, seconds: float, *, relaxed: bool = False) -> Solution:
        """Return the best solution found within ``seconds`` of wall time.

        ``infeasible`` is a proof. ``deadline``: nothing was found in time. ``failed``: the solver broke, or none is
        installed; ``detail`` says how. After a solve that did not come back, the session stays at ``deadline``.
        """
        model = self.model
        size = 0 if self._engine else len(model.lower) + len(model.rows)
        if self._lost or seconds <= GRACE_SECONDS + BUILD_SECONDS * size:
            return Solution("deadline", solver_name())
        if len(_running) >= MOST_STUCK:
            return Solution("failed", solver_name(), detail=f"{len(_running)} earlier solves have not come back")
        answer: list[Solution] = []
        done = threading.Event()

        def work() -> None:
            began = time.monotonic()
            try:
                if self._engine is None:
                    self._engine = _new_engine()
                left = seconds - GRACE_SECONDS - (time.monotonic() - began)
                answer.append(self._engine.solve(model, left, relaxed=relaxed))
            except Exception as error:  # noqa: BLE001 - whatever breaks in a solver, a greedy plan must still be given
                answer.append(Solution("failed", solver_name(), detail=f"{type(error).__name__}: {error}"))
            finally:
                _running.discard(done)
                done.set()

        _running.add(done)
        threading.Thread(target=work, name="placement-solver", daemon=True).start()
        done.wait(seconds)
        if answer:
            return answer[0]
        self._lost = True  # it still works on this program
        return Solution("deadline", solver_name(), detail="the solver did not return in time")


_running: set[threading.Event] = set()


@atexit.register
def _wait_for_solvers() -> None:
    """Wait a little: the interpreter should not be torn down under a solver that runs to its own time limit."""
    deadline = time.monotonic() + EXIT_SECONDS
    for done in list(_running):
        done.wait(max(0.0, deadline - time.monotonic()))


def solve(model: LinearModel, seconds: float) -> Solution:
    """Return the best solution of a program that is solved once; see ``Session.solve``."""
    return Session(model).solve(seconds)


def solver_name() -> str:
    """Return which solver is used here: ``HiGHS``, ``CBC``, or ``none``."""
    return _backend()[0]


def warm_up() -> None:
    """Load the solver, which takes some tenths of a second once per process; later calls return at once."""
    _ = _backend()


@functools.cache
def _backend() -> tuple[str, Callable[[], Engine] | None]:
    """Return the solver's name, and what makes an engine of it."""
    try:
        pulp: Any = importlib.import_module("pulp")
    except ImportError:
        return "none", None
    try:
        highspy: Any = importlib.import_module("highspy")
    except ImportError:
        return "CBC", lambda: _Cbc(pulp)
    solver = _highs_solver(pulp, highspy)
    return "HiGHS", lambda: _Highs(pulp, highspy, solver)


def _new_engine() -> Engine:
    make = _backend()[1]
    if make is None:
        raise RuntimeError("no solver is installed: install shardbus[placer]")
    return make()


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


class _Highs:
    """HiGHS in this process: PuLP formulates the program, and later changes go on from where it was solved."""

    def __init__(self, pulp: Any, highspy: Any, solver: Any) -> None:
        self._pulp, self._highspy, self._solver = pulp, highspy, solver
        self._engine: Any = None
        statuses = highspy.HighsModelStatus
        self._impossible = (statuses.kInfeasible, statuses.kUnboundedOrInfeasible)
        self._rows = 0
        self._relaxed = False

    def solve(self, model: LinearModel, seconds: float, *, relaxed: bool) -> Solution:
        began = time.monotonic()
        if self._engine is None:
            self._build(model, relaxed=relaxed)
        else:
            self._update(model)
        if relaxed != self._relaxed:
            self._set_integrality(model, relaxed=relaxed)
        left = seconds - (time.monotonic() - began)
        if left <= 0:
            return Solution("deadline", "HiGHS", detail="the program took all the time to build")
        self._run(left)
        engine: Any = self._engine
        if engine.getModelStatus() in self._impossible:
            # HiGHS 1.16's presolve calls some programs infeasible that are not: nothing is refused on its word alone.
            left = seconds - (time.monotonic() - began)
            if left <= 0:
                return Solution("deadline", "HiGHS", detail="there was no time to check that there is no solution")
            engine.setOptionValue("presolve", "off")
            engine.clearSolver()
            self._run(left)
            engine.setOptionValue("presolve", "choose")
        return self._answer(relaxed=relaxed)

    def _run(self, seconds: float) -> None:
        self._engine.setOptionValue("time_limit", self._engine.getRunTime() + seconds)
        self._engine.run()

    def _build(self, model: LinearModel, *, relaxed: bool) -> None:
        program, _ = _problem(self._pulp, model)
        options = {
            "threads": 1,
            "mip_rel_gap": 1e-9,
            "mip_abs_gap": 1e-9,
            "mip_feasibility_tolerance": 1e-9,
            "primal_feasibility_tolerance": 1e-9,
            "random_seed": 0,
        }
        solver = self._solver(msg=False, mip=not relaxed, **options)
        solver.createAndConfigureSolver(program)
        solver.buildSolverModel(program)
        self._engine, self._rows, self._relaxed = program.solverModel, len(model.rows), relaxed

    def _update(self, model: LinearModel) -> None:
        count = len(model.lower)
        costs = [0.0] * count
        for index, cost in model.objective.items():
            costs[index] = cost
        everything = range(count)
        infinity = self._highspy.kHighsInf
        self._engine.changeColsCost(count, everything, costs)
        lower = [max(value, -infinity) for value in model.lower]
        upper = [min(value, infinity) for value in model.upper]
        self._engine.changeColsBounds(count, everything, lower, upper)
        for terms, low, high in model.rows[self._rows :]:
            self._engine.addRow(max(low, -infinity), min(high, infinity), len(terms), list(terms), list(terms.values()))
        self._rows = len(model.rows)

    def _set_integrality(self, model: LinearModel, *, relaxed: bool) -> None:
        kinds = self._highspy.HighsVarType
        for index, integer in enumerate(model.integer):
            if integer:
                self._engine.changeColIntegrality(index, kinds.kContinuous if relaxed else kinds.kInteger)
        self._relaxed = relaxed

    def _answer(self, *, relaxed: bool) -> Solution:
        engine, statuses = self._engine, self._highspy.HighsModelStatus
        status, info = engine.getModelStatus(), engine.getInfo()
        if status in self._impossible:
            return Solution("infeasible", "HiGHS")
        found = info.primal_solution_status == self._highspy.SolutionStatus.kSolutionStatusFeasible
        values = tuple(engine.getSolution().col_value) if found else ()
        if relaxed:
            bound = float(info.objective_function_value) if status == statuses.kOptimal else None
        else:
            bound = float(info.mip_dual_bound)
        known = bound if bound is not None and abs(bound) < self._highspy.kHighsInf else None
        if status == statuses.kOptimal and found:
            return Solution("optimal", "HiGHS", values, known)
        return Solution("feasible" if found else "deadline", "HiGHS", values, known, detail=str(status))


class _Cbc:
    """The CBC that PuLP brings, a process of its own for each solve."""

    def __init__(self, pulp: Any) -> None:
        self._pulp = pulp

    def solve(self, model: LinearModel, seconds: float, *, relaxed: bool) -> Solution:
        pulp = self._pulp
        program, columns = _problem(pulp, model)
        # The CBC in PuLP's own wheel, by its path: PuLP's class for it is deprecated.
        path = pulp.PULP_CBC_CMD.pulp_cbc_path
        # No number of threads: told even of one, CBC 2.10 hangs about once in some thousand solves, past its own limit.
        options = {"msg": False, "timeLimit": seconds, "gapRel": 0.0, "gapAbs": 1e-9}
        program.solve(pulp.COIN_CMD(path=path, mip=not relaxed, **options))
        if program.sol_status == pulp.LpSolutionInfeasible:
            return Solution("infeasible", "CBC")
        if program.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
            return Solution("deadline", "CBC", detail=pulp.LpSolution.get(program.sol_status, ""))
        values = tuple(float(column.varValue or 0.0) for column in columns)
        if program.sol_status == pulp.LpSolutionOptimal:
            value = sum(cost * values[index] for index, cost in model.objective.items())
            return Solution("optimal", "CBC", values, value)
        return Solution("feasible", "CBC", values)
