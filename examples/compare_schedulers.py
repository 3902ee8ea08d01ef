"""Ask every scheduler for a schedule of the same graph, and compare the predicted makespans.

    python examples/compare_schedulers.py

No network and no device is needed: costs of Inception-v3, measured on one core, come with the
package. Two such cores are assumed here, connected by PCIe 4.
"""

from __future__ import annotations

from hios_tvm import evaluate, make_schedule
from hios_tvm.schedulers import SCHEDULERS
from hios_tvm.schedulers.bounds import lower_bound_ms
from hios_tvm.schema.instance import read_instance
from hios_tvm.schema.links import LINKS
from hios_tvm.zoo.costs import cost_file


def main() -> None:
    instance = read_instance(cost_file("inception_v3")).on(2, link=LINKS["pcie4"])
    problem = instance.graph, instance.costs, instance.platform
    bound_ms = lower_bound_ms(*problem)
    for name in SCHEDULERS:
        if name == "optimal":  # it is for graphs of about ten operators
            continue
        makespan_ms = evaluate(*problem, make_schedule(name, *problem)).makespan_ms
        gap = makespan_ms / bound_ms - 1
        print(f"{name:10} {makespan_ms:7.3f} ms, {gap:4.0%} above the lower bound")


if __name__ == "__main__":
    main()
