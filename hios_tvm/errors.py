"""Every error that hios-tvm raises on purpose.

HiosError
 |-- UsageError                     wrong options (exit code 2 on the command line)
 |-- ModelError                     a model file that cannot be read or is not valid
 |    |-- UnsupportedOperatorError  valid, but uses operators that cannot be compiled
 |    |-- DynamicShapeError         valid, but dimensions depend on data
 |    |    `-- MissingShapeError    valid, but inputs need shapes (a UsageError too)
 |    `-- RelayError                a Relay program that is damaged or breaks a rule of Relay
 |-- GraphError                     an operator graph that is not a DAG, or names unknown things
 |-- CostError                      costs that are missing, negative or not finite
 |-- ScheduleError                  a schedule that breaks a rule
 |    `-- InfeasibleError           no schedule can satisfy the limits
 |-- CompileError                   code generation or linking failed
 |-- ArtifactError                  an artifact that is damaged or does not fit this machine
 |-- InputError                     wrong names, shapes, dtypes or values given to a session
 |-- MemoryLimitError               more memory asked for than is free, or than was allowed
 |-- DeviceError                    a device that this machine does not have
 |-- ExecutionError                 a run that failed
 |    `-- RunTimeoutError           a run that took longer than its `timeout`
 |-- VerificationError              an artifact whose numbers are wrong, and that is not written
 `-- SessionClosedError             a session used after it was closed
"""

from __future__ import annotations


class HiosError(Exception):
    """Root of all errors of this package; the message says what to do."""


class UsageError(HiosError, ValueError):
    """An option has a value that cannot be used."""


class ModelError(HiosError, ValueError):
    """A model file cannot be read or is not valid."""


class UnsupportedOperatorError(ModelError, NotImplementedError):
    """The model uses operators that cannot be imported; `operators` names each once."""

    def __init__(self, message: str, *, operators: tuple[str, ...]) -> None:
        super().__init__(message)
        self.operators = operators


class DynamicShapeError(ModelError):
    """The model has dimensions without a value; `dimensions` lists `input: dimension`."""

    def __init__(self, message: str, *, dimensions: tuple[str, ...]) -> None:
        super().__init__(message)
        self.dimensions = dimensions


class MissingShapeError(DynamicShapeError, UsageError):
    """The inputs of the model have symbolic dimensions, and no shape is given for them."""


class RelayError(ModelError):
    """A Relay program is damaged or breaks a rule of Relay; `line` and `column` count from 1.

    Both are None where the program has no lines, as in its JSON form.
    """

    def __init__(self, message: str, *, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class GraphError(HiosError, ValueError):
    """An operator graph is not a DAG, or refers to something that it does not hold."""


class CostError(HiosError, ValueError):
    """A cost is missing, negative or not finite."""


class ScheduleError(HiosError, ValueError):
    """A schedule breaks a rule: an operator missing or twice, a cycle, dependent groups."""


class InfeasibleError(ScheduleError):
    """No schedule can satisfy the limits, such as the devices' memory."""


class CompileError(HiosError, RuntimeError):
    """Code generation or linking failed."""


class ArtifactError(HiosError, ValueError):
    """An artifact is damaged, or was made for another machine or version."""


class InputError(HiosError, ValueError):
    """An input has an unknown name, a wrong shape or dtype, or values that are not valid."""


class MemoryLimitError(HiosError, MemoryError):
    """A model or an artifact needs more memory than is free, or than it may take."""


class DeviceError(HiosError, RuntimeError):
    """A device does not exist on this machine, or this process may not use it."""


class ExecutionError(HiosError, RuntimeError):
    """A run failed; `operator` names where, if it is known."""

    def __init__(self, message: str, *, operator: str | None = None) -> None:
        super().__init__(message)
        self.operator = operator


class RunTimeoutError(ExecutionError, TimeoutError):
    """A run took longer than its `timeout`."""


class VerificationError(HiosError, RuntimeError):
    """Outputs of a new artifact differ from the reference's; `operator` is the first that does.

    It is None where no part of the model shows the difference alone.
    """

    def __init__(self, message: str, *, operator: str | None = None) -> None:
        super().__init__(message)
        self.operator = operator


class SessionClosedError(HiosError, RuntimeError):
    """A session was used after `close()`, or in a process that was forked from its owner."""
