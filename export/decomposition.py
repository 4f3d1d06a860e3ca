"""What the ONNX exporter does to a captured program, done without running the program anew for it.

``torch.onnx.export`` captures a module once and then lets ``ExportedProgram.run_decompositions`` trace it two times
again, half of the time an export takes, to replace operators that torchlib does not translate. Of those our modules
use twenty-two, each another operator by name or nothing at all. A program that holds any other goes the long way.

Then the exporter makes promotions of types explicit, and runs the program a third time to know what goes into each
node. Every node says that itself, so only a node that was changed is run.

Beside that it makes for every graph, and for every node, what is the same for all: ``without_repeats``.

Both change the exporter for the whole process, so ``trace`` lets one thread at a time use them.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import fx
from torch._export import utils as export_utils
from torch.fx.experimental import proxy_tensor
from torch.fx.passes import shape_prop
from torch.onnx._internal.exporter._registration import ONNXRegistry
from torch.onnx._internal.fx.passes import type_promotion

_ATEN = torch.ops.aten
_Program = torch.export.ExportedProgram
_Promotion = type_promotion._TypePromotionInterpreter

#: Of torch: finds composite operators, by name.
_COMPOSITES = "_materialize_cpp_cia_ops"
#: Objects made before the collector looks at them, 700 by default: a trace makes many, and little of it is garbage.
_YOUNG = 50_000

#: Only says what is so of sizes and types; the exporter removes it afterwards.
_ASSERTIONS = {_ATEN._assert_tensor_metadata.default, _ATEN._assert_scalar.default}
#: Of constants that a module makes while it runs: nothing writes to them.
_SAME = {_ATEN.alias.default, _ATEN.detach.default, _ATEN.detach_.default, _ATEN.lift_fresh_copy.default}
#: Another name for the same.
_RENAMED = {_ATEN.__or__.Tensor: _ATEN.bitwise_or.Tensor, _ATEN.__and__.Tensor: _ATEN.bitwise_and.Tensor}
#: All become ``view``, whose zeros are sizes; torchlib's ``reshape`` copies a size where a zero stands.
_SHAPED = {_ATEN.flatten.using_ints, _ATEN.unflatten.int, _ATEN.reshape.default, _ATEN.expand_as.default}
#: Nothing or one operator in a model that is not trained: settled by the argument at this place, false then.
_NOT_TRAINED = {_ATEN.dropout.default: 2, _ATEN.batch_norm.default: 5}
#: Place in the arguments of the number that stands in for a tensor.
_CHOICES = {_ATEN.where.ScalarSelf: 1, _ATEN.where.ScalarOther: 2}
_RULES = {
    _ATEN.to.dtype, _ATEN.rsub.Scalar, _ATEN.numpy_T.default, _ATEN.softmax.int, _ATEN.square.default,
    _ATEN.relu_.default,
    *_ASSERTIONS, *_NOT_TRAINED, *_SAME, *_RENAMED, *_SHAPED, *_CHOICES,
}  # fmt: skip
#: Composite operators that torchlib translates as they are.
_TRANSLATED = {
    _ATEN.linear.default, _ATEN.matmul.default, _ATEN.rms_norm.default,
    _ATEN.layer_norm.default, _ATEN.scaled_dot_product_attention.default, _ATEN.chunk.default, _ATEN.conv2d.default,
    _ATEN.where.Scalar, _ATEN.pad.default, _ATEN.sym_size.int,
}  # fmt: skip


@contextlib.contextmanager
def by_substitution() -> Iterator[None]:
    """Let the exporter decompose by ``substituted``, and read values of nodes where it ran them, while this lasts."""
    whole, run_node = _Program.run_decompositions, _Promotion.run_node

    def run(program: _Program, decomp_table: Any = None, **options: Any) -> _Program:
        if decomp_table is None or options or not substitutable(program, decomp_table):
            return whole(program, decomp_table, **options)
        return substituted(program)

    _Program.run_decompositions = run  # type: ignore[method-assign]
    _Promotion.run_node = _promoted  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        _Program.run_decompositions = whole  # type: ignore[method-assign]
        _Promotion.run_node = run_node  # type: ignore[method-assign]


@contextlib.contextmanager
def without_repeats() -> Iterator[None]:
    """Let the exporter make once what is the same for every graph and node; nothing of it is in a graph.

    It reads the whole of torchlib for every graph (0.8 s), an operator's signature for every node of it, and a node's
    place in the source, which names folders of this machine. The cache of fake tensors costs more than it gives in
    graphs of few layers (six: a fifth of the time; 24: nothing either way). Which order in memory a tensor has
    is asked of symbolic sizes, and no graph says it. Operators that are made of others are looked up once for every
    library of operators, some thirty, and are the same each time.
    """
    threshold = gc.get_threshold()
    gc.set_threshold(max(_YOUNG, threshold[0]), *threshold[1:])
    try:
        with (
            _replaced(ONNXRegistry, "from_torchlib", staticmethod(_registry)),
            _replaced(ir.schemas.OpSignature, "from_op_schema", staticmethod(_signature)),
            _replaced(fx.config, "do_not_emit_stack_traces", True),
            _replaced(proxy_tensor, "_extract_tensor_metadata", _metadata),
            _replaced(export_utils, _COMPOSITES, functools.cache(getattr(export_utils, _COMPOSITES))),
            torch._dynamo.config.patch(fake_tensor_cache_enabled=False),
        ):
            yield
    finally:
        gc.set_threshold(*threshold)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """What a class or a module has by ``name`` is another while this lasts; older releases of torch have not all."""
    if name not in vars(owner):
        yield
        return
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


_registry = functools.cache(ONNXRegistry.from_torchlib)
_metadata = functools.partial(shape_prop._extract_tensor_metadata, include_contiguity=False)
_read_signature = ir.schemas.OpSignature.from_op_schema
_signatures: dict[tuple[str, str, int], Any] = {}


def _signature(schema: Any) -> Any:
    key = schema.domain, schema.name, schema.since_version
    if key not in _signatures:
        _signatures[key] = _read_signature(schema)
    return _signatures[key]


def _promoted(interpreter: Any, node: fx.Node) -> Any:
    """What ``node`` gives, with its promotions made explicit; what promotes it sets its ``val`` anew."""
    with interpreter._set_current_node(node):
        if rule := type_promotion.get_type_promotion_rule(node, interpreter.type_promotion_table):
            interpreter._maybe_promote_node(node, rule)
    if node.op == "call_function" and "val" in node.meta:
        return node.meta["val"]
    return fx.Interpreter.run_node(interpreter, node)


def substitutable(program: _Program, table: Mapping[Any, Any]) -> bool:
    """Whether ``substituted`` leaves nothing that ``table`` decomposes, or that torch would on the way."""
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    known = {size for node in inputs for size in _expressions(node.meta.get("val")) if not isinstance(size, int)}
    return [*program.graph_module.modules()] == [program.graph_module] and all(
        _known(node, table, known) for node in program.graph.nodes if node.op == "call_function"
    )


def _known(node: fx.Node, table: Mapping[Any, Any], known: set[Any]) -> bool:
    target = node.target
    if target in _SHAPED:
        return all(isinstance(size, int) or _simple(size, known) for size in _expressions(node.meta["val"]))
    if target is _ATEN.rsub.Scalar:
        return len(node.args) == 2 and not node.kwargs  # no factor
    if target is _ATEN.softmax.int:
        return len(node.args) == 2 and not node.kwargs  # no other type
    if target in _CHOICES:
        return node.args[3 - _CHOICES[target]].meta["val"].dtype == node.meta["val"].dtype  # type: ignore[union-attr]
    if target in _NOT_TRAINED:
        return node.args[_NOT_TRAINED[target]] is False
    if target is _ATEN.relu_.default:
        return len(node.args[0].users) == 1  # type: ignore[union-attr]  # nothing else reads what it writes to
    if target is _ATEN.sym_storage_offset.default:
        return _only_asserted(node)  # left by a slice that begins where a size says
    if target in _RULES or target in _TRANSLATED or not isinstance(target, torch._ops.OpOverload):
        return True
    composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    return not (target in table or composite or target._schema.is_mutable)


def _only_asserted(node: fx.Node) -> bool:
    """Whether nothing but assertions reads ``node``, as it is or computed with: with them it goes."""
    return all(
        user.target in _ASSERTIONS
        or (user.op == "call_function" and not isinstance(user.target, torch._ops.OpOverload) and _only_asserted(user))
        for user in node.users
    )


def substituted(program: _Program) -> _Program:
    """``program``, changed in place, without the operators of ``_RULES``; sizes are computed once, from the inputs."""
    graph = program.graph
    sizes = _Sizes(program)
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        target, value = node.target, node.meta.get("val")
        if isinstance(value, torch.SymInt):
            if not _only_asserted(node):
                sizes.share(node)
        elif target in _ASSERTIONS:
            graph.erase_node(node)
        elif target in _SAME or target is _ATEN.dropout.default:
            _leave_out(program, node)
        elif target is _ATEN.relu_.default:
            node.target = _ATEN.relu.default
        elif target is _ATEN.batch_norm.default:
            with graph.inserting_before(node):
                whole = graph.call_function(
                    _ATEN._native_batch_norm_legit_no_training.default, (*node.args[:5], *node.args[6:8])
                )
            whole.meta["val"] = (value, *[value.new_empty(0)] * 2)
            node.target, node.args = operator.getitem, (whole, 0)
        elif target in _RENAMED:
            node.target = _RENAMED[target]
        elif target is _ATEN.rsub.Scalar:
            node.target, node.args = _ATEN.sub.Tensor, (node.args[1], node.args[0], *node.args[2:])
        elif target is _ATEN.square.default:
            node.target, node.args = _ATEN.mul.Tensor, (node.args[0], node.args[0])
        elif target is _ATEN.softmax.int:
            node.target, node.args = _ATEN._softmax.default, (*node.args, False)
        elif target in _CHOICES:
            place, args = _CHOICES[target], [*node.args]
            with graph.inserting_before(node):
                number = graph.call_function(_ATEN.scalar_tensor.default, (args[place],), {"dtype": value.dtype})
            number.meta["val"] = value.new_full((), args[place])
            args[place] = number
            node.target, node.args = _ATEN.where.self, tuple(args)
        elif target is _ATEN.numpy_T.default:
            node.target, node.args = _ATEN.permute.default, (node.args[0], [*range(value.dim())][::-1])
        elif target is _ATEN.to.dtype and node.args[0].meta["val"].dtype == value.dtype:
            _leave_out(program, node)
        elif target is _ATEN.to.dtype:
            node.target, node.args, node.kwargs = _ATEN._to_copy.default, node.args[:1], {"dtype": value.dtype}
        elif target in _SHAPED and _expressions(node.args[0].meta["val"]) == _expressions(value):
            _leave_out(program, node)
        elif target in _SHAPED:
            wanted = [sizes.node(size, node) for size in value.shape]
            if target is _ATEN.expand_as.default:
                node.target, node.args = _ATEN.expand.default, (node.args[0], wanted)
            else:
                node.target, node.args, node.kwargs = _ATEN.view.default, (_contiguous(graph, node), wanted), {}
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _leave_out(program: _Program, node: fx.Node) -> None:
    """Let what reads ``node`` read its input, outputs of the program too."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    node.replace_all_uses_with(source)
    program.graph.erase_node(node)
    program.graph_signature.replace_all_uses(node.name, source.name)


def _contiguous(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """The input of ``node`` as a view may take it; in ONNX, which knows no strides, that is the input itself."""
    with graph.inserting_before(node):
        clone = graph.call_function(_ATEN.clone.default, node.args[:1], {"memory_format": torch.contiguous_format})
    clone.meta["val"] = node.args[0].meta["val"]  # type: ignore[union-attr]
    return clone


class _Sizes:
    """One node for every size that depends on the inputs, by its expression (SymPy's)."""

    def __init__(self, program: _Program) -> None:
        self.graph = program.graph
        self.nodes: dict[Any, fx.Node] = {}
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        with self.graph.inserting_after(inputs[-1]):
            for node in reversed(inputs):
                for axis, size in enumerate(getattr(node.meta.get("val"), "shape", ())):
                    if isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                        self.nodes[size.node.expr] = self._made(_ATEN.sym_size.int, (node, axis), size)

    def share(self, node: fx.Node) -> None:
        """Let the first node of an expression stand for all, one computed of inputs' sizes where that is simple."""
        size = node.meta["val"].node.expr
        if node.target is _ATEN.sym_size.int and _simple(size):
            first = self._of(size, node)
        else:
            first = self.nodes.setdefault(size, node)
        if first is not node:
            node.replace_all_uses_with(first)

    def node(self, size: Any, before: fx.Node) -> Any:
        """What gives ``size``, computed ``before`` a node where nothing does yet; an int for a fixed one."""
        return self._of(size.node.expr, before) if isinstance(size, torch.SymInt) else size

    def _of(self, wanted: Any, before: fx.Node) -> Any:
        if wanted.is_Integer:
            return int(wanted)
        if wanted not in self.nodes:
            step = operator.add if wanted.is_Add else operator.mul
            first, *rest = (self._of(part, before) for part in wanted.args)
            for part in rest:
                with self.graph.inserting_before(before):
                    first = self._made(step, (first, part), step(_value(first), _value(part)))
            self.nodes[wanted] = first
        return self.nodes[wanted]

    def _made(self, target: Any, args: tuple[Any, ...], value: Any) -> fx.Node:
        node = self.graph.call_function(target, args)
        node.meta["val"] = value
        return node


def _simple(size: Any, known: set[Any] | None = None) -> bool:
    """A size of an input, or sums and products of such."""
    if size.is_symbol:
        return known is None or size in known
    return bool(size.is_Integer or ((size.is_Add or size.is_Mul) and all(_simple(part, known) for part in size.args)))


def _expressions(value: Any) -> list[Any]:
    """Sizes of a tensor to compare: comparing the sizes themselves would bind the program to the outcome."""
    return [size.node.expr if isinstance(size, torch.SymInt) else size for size in getattr(value, "shape", ())]


def _value(part: Any) -> Any:
    return part.meta["val"] if isinstance(part, fx.Node) else part
