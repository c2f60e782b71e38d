"""How much searching is allowed: so many trials, and no longer than the deadline."""

from collections.abc import Callable
from dataclasses import dataclass

TRIALS_BETWEEN_LOOKS = 16
"""Reading the clock takes as long as a small trial."""


@dataclass
class Spending:
    """An allowance. The trials are counted so that a plan does not depend on the machine; the time is the deadline."""

    trials: int
    seconds_left: Callable[[], float]
    late: bool = False

    def trial(self) -> bool:
        """Take one trial from the allowance; ``False`` once it is used up."""
        self.trials -= 1
        if self.trials % TRIALS_BETWEEN_LOOKS == 0 and self.seconds_left() <= 0:
            self.late = True
        return self.trials > 0 and not self.late

    def part(self, trials: int) -> "Spending":
        """Return a smaller allowance under the same deadline."""
        return Spending(trials, self.seconds_left, self.late)
