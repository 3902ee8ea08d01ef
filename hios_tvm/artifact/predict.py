"""What an artifact says about the time of a run, from the one evaluator."""

from hios_tvm.schedulers.evaluate import evaluate
from hios_tvm.schema.costs import CostTable
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.manifest import PredictedOperator, PredictedTransfer, Prediction
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import Schedule


def predict(
    graph: OperatorGraph, costs: CostTable, platform: Platform, schedule: Schedule
) -> Prediction:
    """Return when the operators of a schedule should run, in the order of their starts.

    Raises
    ------
    ScheduleError
        If the schedule does not fit the graph or the platform.
    """
    timeline = evaluate(graph, costs, platform, schedule)
    model = {device.name: device.model for device in platform.devices}
    names = sorted(schedule.placement, key=lambda name: timeline.start_ms[name])
    return Prediction(
        makespan_ms=timeline.makespan_ms,
        operators=tuple(
            PredictedOperator(
                name,
                costs.latency_ms(name, model[schedule.placement[name]]),
                timeline.start_ms[name],
                timeline.end_ms[name],
            )
            for name in names
        ),
        transfers=tuple(
            PredictedTransfer(span.src, span.dst, span.start_ms, span.end_ms)
            for span in timeline.transfers
        ),
        work_ms={
            device.device: sum(
                costs.stage_ms(stage.groups, model[device.device]) for stage in device.stages
            )
            for device in schedule
        },
        independence=platform.independence,
    )
