"""Which devices each model gets: its own cores where they are free, or others that nobody uses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from hios_tvm.schema.device_names import cores_of, cpu_device_name, gpu_place, outermost


def share_of(
    devices: Sequence[str], allowed: Collection[int], claimed: Collection[int]
) -> tuple[str, ...]:
    """Return the devices to load an artifact on, in the order of its own, parts left out.

    Parameters
    ----------
    devices
        Those of the artifact. Other kinds than CPUs stay as they are.
    allowed, claimed
        The cores that this process may use, and those that any session uses already.

    Returns
    -------
    tuple of str
        The artifact's own devices where their cores are free. Otherwise the free cores with the
        lowest numbers; where these are too few, claimed ones are shared.

    Examples
    --------
    >>> share_of(["cpu@0-1"], allowed=range(4), claimed=[0])
    ('cpu@1-2',)
    >>> share_of(["cpu@0-1", "cpu@0", "cpu@1"], allowed=range(2), claimed=[0, 1])
    ('cpu@0-1',)
    >>> share_of(["cpu@0", "cpu@1", "cuda:0"], allowed=[4, 5], claimed=[4])
    ('cpu@5', 'cpu@4', 'cuda:0')
    """
    outer = set(outermost(filter(cores_of, devices)))
    whole = [name for name in devices if name in outer or not cores_of(name)]
    wanted = [core for name in whole for core in cores_of(name)]
    usable = set(allowed)
    free = usable.difference(claimed)
    if free.issuperset(wanted) or len(usable) < len(wanted):  # what is missing is said when loaded
        return tuple(whole)
    if len(free) < len(wanted) and usable.issuperset(wanted):
        return tuple(whole)
    others = iter([*sorted(free), *sorted(usable - free)])
    return tuple(
        cpu_device_name([next(others) for _ in cores_of(name)]) if cores_of(name) else name
        for name in whole
    )


def on_gpus(devices: Sequence[str], gpus: Iterator[int]) -> list[str]:
    """Return the devices with other GPUs in place of their own, in order of their numbers.

    >>> on_gpus(["cpu@0", "cuda:3", "cuda:1.0/2", "cuda:1.1/2"], iter([0, 1]))
    ['cpu@0', 'cuda:1', 'cuda:0.0/2', 'cuda:0.1/2']
    """
    places = {name: gpu_place(name) for name in devices if not cores_of(name)}
    new = {index: next(gpus) for index in sorted({place.index for place in places.values()})}
    return [
        name.replace(f":{places[name].index}", f":{new[places[name].index]}", 1)
        if name in places
        else name
        for name in devices
    ]
