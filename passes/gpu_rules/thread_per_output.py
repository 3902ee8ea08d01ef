"""The rule for kernels that reduce little: one thread computes one output, in registers."""

from tvm import s_tir, tirx
from tvm.s_tir.schedule import SBlockRV

from hios_tvm.passes.gpu_rules.blocks import inline_all, main_block
from hios_tvm.schema.kernel_shapes import CONVOLUTION, WINDOW

_THREADS = 128
_CHANNELS = 32  # of one block: a warp reads them side by side


class ThreadPerOutput:
    """Schedule depthwise and grouped convolutions and poolings.

    Neighbouring threads compute neighbouring channels, so that they read side by side; what
    several of them read comes from the cache.
    """

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | None:
        sch = s_tir.Schedule(func)
        block = main_block(sch, CONVOLUTION, WINDOW)
        if block is None:
            return None
        for annotation in (CONVOLUTION, WINDOW):
            if annotation in sch.get(block).annotations:
                sch.unannotate(block, annotation)
        sch.cache_write(block, 0, "local")
        (result,) = inline_all(sch, block)
        *pixel, channel = sch.get_loops(result)
        wide = min(_CHANNELS, 1 << (int(sch.get(channel).extent) - 1).bit_length())
        block_channel, thread_channel = sch.split(channel, [None, wide])
        block_pixel, thread_pixel = sch.split(sch.fuse(*pixel), [None, _THREADS // wide])
        sch.reorder(block_pixel, block_channel, thread_pixel, thread_channel)
        sch.bind(sch.fuse(block_pixel, block_channel), "blockIdx.x")
        sch.bind(thread_pixel, "threadIdx.y")
        sch.bind(thread_channel, "threadIdx.x")
        sch.compute_at(block, thread_channel, preserve_unit_loops=True)
        sch.decompose_reduction(block, _reduced_loop(sch, block))
        return func.with_body(sch.mod["main"].body)


def _reduced_loop(sch: s_tir.Schedule, block: SBlockRV) -> s_tir.schedule.LoopRV:
    """Return the outermost loop that `block` reduces over; behind those of its outputs."""
    reduced = sum(it.iter_type == tirx.IterVar.CommReduce for it in sch.get(block).iter_vars)
    return sch.get_loops(block)[-reduced]
