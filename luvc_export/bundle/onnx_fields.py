"""Numbers of the fields of onnx.proto that are read or written here, by message."""

from __future__ import annotations

MODEL_GRAPH, MODEL_OPSET, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 8, 20, 25
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE = 1, 5, 11, 12, 15
#: Inputs, outputs and what is between: each value's type, its tensor, its shape, the shape's sizes.
GRAPH_VALUES, VALUE_NAME, VALUE_SHAPE, SHAPE_DIM = (11, 12, 13), 1, (2, 1, 2), 1
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_ATTRIBUTE, NODE_DOMAIN, NODE_OVERLOAD = 1, 2, 3, 4, 5, 7, 8
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_TENSOR, ATTRIBUTE_INTS, ATTRIBUTE_REFERENCE = 1, 3, 5, 8, 21
#: Graphs, sparse tensors and types in an attribute: g, tensors, graphs, tp, type_protos, sparse_tensor(s).
ATTRIBUTE_REFUSED = (6, 10, 11, 14, 15, 22, 23)
FUNCTION_NAME, FUNCTION_INPUT, FUNCTION_OUTPUT, FUNCTION_NODE = 1, 4, 5, 7
FUNCTION_OPSET, FUNCTION_DOMAIN, FUNCTION_DEFAULT, FUNCTION_OVERLOAD = 9, 10, 11, 13
TENSOR_DIMS, TENSOR_TYPE, TENSOR_INT32, TENSOR_INT64, TENSOR_NAME, TENSOR_RAW = 1, 2, 5, 7, 8, 9
TENSOR_EXTERNAL, TENSOR_LOCATION = 13, 14
#: Fields of a tensor that hold its elements one by one; raw_data apart. Strings are in none of our graphs.
TENSOR_TYPED, TENSOR_STRINGS = (4, 5, 7, 10, 11), 6
