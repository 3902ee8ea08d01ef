"""What the rules for GPUs share: finding and inlining blocks."""

from tvm import s_tir
from tvm.s_tir.schedule import SBlockRV


def main_block(sch: s_tir.Schedule, *annotations: str) -> SBlockRV | None:
    """Return the block that carries one of `annotations`, or None."""
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if any(annotation in sch.get(block).annotations for annotation in annotations):
            return block
    return None


def inline_all(sch: s_tir.Schedule, *kept: SBlockRV) -> list[SBlockRV]:
    """Inline every block that can be, but `kept`; return those that remain beside them."""
    names = {str(sch.get(block).name_hint) for block in kept}
    remaining = []
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if str(sch.get(block).name_hint) in names:
            continue
        try:
            sch.compute_inline(block)
        except s_tir.ScheduleError:
            remaining.append(block)
    return remaining
