"""Which fields of Relay's attributes are nodes of their own in a node table.

In the table a field holds either a value (``"axis": "1"``) or the index of a node (``"strides":
"17"``), and only the C++ declaration of the attributes said which. These are those declarations.
"""

# Lists, optional numbers and expressions, in every operator that has a field of this name.
_NODES = """
    axes batch_dims begin block_shape channels crop_size crops dilation dilations end exclusive
    index_rank indices_or_sections k kernel_size lhs_end newshape output_padding output_shape
    output_size pad_width padding paddings pool_size pooled_size repeats reps rhs_end roi shape
    start stop step strides target_shape units window_shape
"""

# Texts, which were values in old versions and nodes in later ones.
_TEXTS = """
    auto_scheduler_rewritten_layout compute_dtype coordinate_transformation_mode data_layout
    dst_layout equation indexing kernel_layout layout method mode out_layout pad_mode
    padding_mode reduction ret_type rounding rounding_method slice_mode src_layout
"""

# Operators in which the field `axis` is a node.
_AXIS_IS_NODE = """
    ArgReduce Gather L2Normalize Reduce Repeat Reverse Scanop Scatter ScatterAdd ScatterElements
    Squeeze Stack Take Variance
"""

_NODES_EVERYWHERE = frozenset(_NODES.split())
_TEXTS_EVERYWHERE = frozenset(_TEXTS.split())
_NODES_SOMEWHERE = {
    "axis": frozenset(f"relay.attrs.{name}Attrs" for name in _AXIS_IS_NODE.split()),
    "size": frozenset(f"relay.attrs.Resize{kind}Attrs" for kind in ("", "1D", "2D", "3D")),
    "seq_axis": frozenset({"relay.attrs.ReverseSequenceAttrs"}),
    "batch_axis": frozenset({"relay.attrs.ReverseSequenceAttrs"}),
}


def is_reference(type_key: str, field: str, text: str) -> bool:
    """Say whether `text`, the field's content, is the index of a node.

    >>> is_reference("relay.attrs.ReduceAttrs", "axis", "4")
    True
    >>> is_reference("relay.attrs.SoftmaxAttrs", "axis", "4")
    False
    """
    if field in _TEXTS_EVERYWHERE:
        return text.isdecimal()
    return field in _NODES_EVERYWHERE or type_key in _NODES_SOMEWHERE.get(field, ())
