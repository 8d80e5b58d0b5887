#!/usr/bin/env python3
"""Makes the tiny models of the SQL and isolation tests, each of which does one thing that can be worked out by hand.

    python3 tests/models/generate.py        (needs onnx and numpy of tests/requirements.txt; writes beside itself)

The files are committed; running this again gives the same bytes.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

HERE = Path(__file__).resolve().parent
N = "N"
FLOAT = TensorProto.FLOAT

# Short name in inputs and outputs -> element type.
ELEMENTS = {
    "f32": TensorProto.FLOAT,
    "f64": TensorProto.DOUBLE,
    "i8": TensorProto.INT8,
    "i16": TensorProto.INT16,
    "i32": TensorProto.INT32,
    "i64": TensorProto.INT64,
    "u8": TensorProto.UINT8,
    "u16": TensorProto.UINT16,
    "u32": TensorProto.UINT32,
    "u64": TensorProto.UINT64,
    "b": TensorProto.BOOL,
    "s": TensorProto.STRING,
}


def tensor(name, element, shape):
    return helper.make_tensor_value_info(name, element, shape)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def save(name, nodes, inputs, outputs, constants=(), check=True, opsets=(("", 17),), value_info=(), properties=None):
    graph = helper.make_graph(nodes, name, inputs, outputs, list(constants), value_info=list(value_info))
    model = helper.make_model(
        graph, ir_version=8, producer_name="pg_predict tests", opset_imports=[helper.make_opsetid(d, v) for d, v in opsets]
    )
    helper.set_model_props(model, properties or {})
    if check:
        checker.check_model(model)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def linear(name, weights, bias, columns=3):
    """x [N,columns] -> y [N,1] = x . weights + bias"""
    save(
        name,
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "bias"], ["y"])],
        [tensor("x", FLOAT, [N, columns])],
        [tensor("y", FLOAT, [N, 1])],
        [constant("w", np.array(weights, np.float32).reshape(columns, 1)), constant("bias", np.array([bias], np.float32))],
    )


def weighted(name, inputs, output):
    """Several inputs [N,1] -> output [N,1] = first + 10 * second + 100 * third"""
    nodes, terms, constants = [], [], []
    for i, column in enumerate(inputs):
        constants.append(constant(f"w{i}", np.array([10.0**i], np.float32)))
        nodes.append(helper.make_node("Mul", [column, f"w{i}"], [f"t{i}"]))
        terms.append(f"t{i}")
    nodes.append(helper.make_node("Sum", terms, [output]))
    save(name, nodes, [tensor(c, FLOAT, [N, 1]) for c in inputs], [tensor(output, FLOAT, [N, 1])], constants)


def main():
    linear("linear", [1, 10, 100], 0.5)
    # The next version of it: a thousand more.
    linear("linear_next", [1, 10, 100], 1000.5)
    linear("one", [2], 0, columns=1)
    weighted("named", ["a", "b", "c"], "y")
    weighted("cased", ["Age", "Income"], "Total")

    # Every element type by itself, in and out.
    save(
        "types",
        [helper.make_node("Identity", [t], [f"o_{t}"]) for t in ELEMENTS],
        [tensor(t, e, [N, 1]) for t, e in ELEMENTS.items()],
        [tensor(f"o_{t}", e, [N, 1]) for t, e in ELEMENTS.items()],
    )
    for t in ("f32", "f64", "i8", "i32", "i64", "u8", "b", "s"):
        # Rows of two elements of the type, as they are.
        save(f"pair_{t}", [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", ELEMENTS[t], [N, 2])], [tensor("y", ELEMENTS[t], [N, 2])])
    save("pair_u64", [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", ELEMENTS["u64"], [N, 2])], [tensor("y", ELEMENTS["u64"], [N, 2])])
    save("single", [helper.make_node("Add", ["x", "x"], ["y"])], [tensor("x", FLOAT, [N])], [tensor("y", FLOAT, [N])])
    save("single_i64", [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", TensorProto.INT64, [N])], [tensor("y", TensorProto.INT64, [N])])
    # Names that differ by case, by what follows their first 63 bytes, and in letters of two bytes.
    for name, a, b, y in (("two_cases", "Age", "age", "y"), ("long_pair", "c" * 63 + "x", "c" * 63 + "y", "d" * 70), ("long_letters", "\u00e9" * 40, "b", "\u00fc" * 40)):
        nodes = [helper.make_node("Mul", [b, "ten"], ["tens"]), helper.make_node("Add", [a, "tens"], [y])]
        save(name, nodes, [tensor(a, FLOAT, [N]), tensor(b, FLOAT, [N])], [tensor(y, FLOAT, [N])], [constant("ten", np.float32(10))])
    # Two outputs that are one name for PostgreSQL.
    outputs = ["d" * 63 + "x", "d" * 63 + "y"]
    save("long_outputs", [helper.make_node(kind, ["x"], [y]) for kind, y in zip(("Identity", "Neg"), outputs, strict=True)], [tensor("x", FLOAT, [N])], [tensor(y, FLOAT, [N]) for y in outputs])
    save("text", [helper.make_node("Identity", ["s"], ["t"])], [tensor("s", TensorProto.STRING, [N, 1])], [tensor("t", TensorProto.STRING, [N, 1])])
    save("half", [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", TensorProto.FLOAT16, [N, 1])], [tensor("y", TensorProto.FLOAT16, [N, 1])])

    # One input, an output of every shape: label [N], total [N,1], pair [N,2], grid [N,2,2].
    save(
        "shapes",
        [
            helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["label"], to=TensorProto.INT64),
            helper.make_node("ReduceSum", ["x", "axis"], ["total"], keepdims=1),
            helper.make_node("Identity", ["x"], ["pair"]),
            helper.make_node("Concat", ["x", "x"], ["twice"], axis=1),
            helper.make_node("Reshape", ["twice", "square"], ["grid"]),
        ],
        [tensor("x", FLOAT, [N, 2])],
        [tensor("label", TensorProto.INT64, [N]), tensor("total", FLOAT, [N, 1]), tensor("pair", FLOAT, [N, 2]), tensor("grid", FLOAT, [N, 2, 2])],
        [constant("axis", np.array([1], np.int64)), constant("square", np.array([-1, 2, 2], np.int64))],
    )
    # LightGBM's converter declares [1] for what is [N].
    save(
        "lying_shape",
        [helper.make_node("ReduceSum", ["x", "axis"], ["label"], keepdims=0)],
        [tensor("x", FLOAT, [N, 2])],
        [tensor("label", FLOAT, [1])],
        [constant("axis", np.array([1], np.int64))],
        check=False,
    )
    # Names that need care: a slash, a colon and brackets; and inputs as wide as the row says.
    save("odd_names", [helper.make_node("Identity", ["input:0"], ["dense/out:0"])], [tensor("input:0", FLOAT, [N, 1])], [tensor("dense/out:0", FLOAT, [N, 1])])
    # Names that would be statements, HTML or the end of a comment where they are printed as they are.
    hostile = ["a\nDROP TABLE victims; --", "b\"'; DROP TABLE victims; \\gexec", "c */ :d %s <b>&", "d\u202eb"]
    save(
        "hostile_names",
        [helper.make_node("Sum", hostile, ["y\n-- \"; DROP TABLE victims; --"])],
        [tensor(name, FLOAT, [N, 1]) for name in hostile],
        [tensor("y\n-- \"; DROP TABLE victims; --", FLOAT, [N, 1])],
    )
    save(
        "open",
        [helper.make_node("ReduceSum", ["x", "axis"], ["total"], keepdims=1)],
        [tensor("x", FLOAT, [N, "width"])],
        [tensor("total", FLOAT, [N, 1])],
        [constant("axis", np.array([1], np.int64))],
    )
    save("grid", [helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=0)], [tensor("x", FLOAT, [N, 2, 3])], [tensor("total", FLOAT, [N])], [constant("axes", np.array([1, 2], np.int64))])
    # Eight rows and no other number of them.
    save("fixed8", [helper.make_node("ReduceSum", ["x", "axis"], ["y"], keepdims=1)], [tensor("x", FLOAT, [8, 2])], [tensor("y", FLOAT, [8, 1])], [constant("axis", np.array([1], np.int64))])

    # scikit-learn's ZipMap, over two scores as they are.
    for name, labels in (("zipmap_integer", {"classlabels_int64s": [0, 7]}), ("zipmap_text", {"classlabels_strings": ["bad", "good"]})):
        key = TensorProto.INT64 if "integer" in name else TensorProto.STRING
        scores = helper.make_value_info("scores", helper.make_sequence_type_proto(helper.make_map_type_proto(key, helper.make_tensor_type_proto(FLOAT, []))))
        save(
            name,
            [helper.make_node("ZipMap", ["x"], ["scores"], domain="ai.onnx.ml", **labels)],
            [tensor("x", FLOAT, [N, 2])],
            [scores],
            opsets=(("", 17), ("ai.onnx.ml", 1)),
        )

    # Fails while running for an index that is not 0 to 4.
    save(
        "lookup",
        [helper.make_node("Gather", ["table", "i"], ["value"], axis=0)],
        [tensor("i", TensorProto.INT64, [N, 1])],
        [tensor("value", FLOAT, [N, 1])],
        [constant("table", np.array([10, 11, 12, 13, 14], np.float32))],
    )
    # Integer division and remainder of n by d.
    for name, operator in (("divide", "Div"), ("remainder", "Mod")):
        save(
            name,
            [helper.make_node(operator, ["n", "d"], ["q"])],
            [tensor("n", TensorProto.INT32, [N, 1]), tensor("d", TensorProto.INT32, [N, 1])],
            [tensor("q", TensorProto.INT32, [N, 1])],
        )


    # Doubles a zero as often as the largest value of the batch says, or for ever; y is x.
    def loop(name, count, count_nodes, constants=()):
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["state", "state"], ["state_next"])],
            "body",
            [tensor("turn", TensorProto.INT64, []), tensor("go", TensorProto.BOOL, []), tensor("state", FLOAT, [1])],
            [tensor("go_on", TensorProto.BOOL, []), tensor("state_next", FLOAT, [1])],
        )
        save(
            name,
            [
                *count_nodes,
                helper.make_node("Loop", [count, "true", "zero"], ["end"], body=body),
                helper.make_node("Add", ["x", "end"], ["y"]),
            ],
            [tensor("x", FLOAT, [N, 1])],
            [tensor("y", FLOAT, [N, 1])],
            [constant("true", np.array(True)), constant("zero", np.array([0], np.float32)), *constants],
        )

    loop("slow", "turns", [helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0), helper.make_node("Cast", ["most"], ["turns"], to=TensorProto.INT64)])
    loop("endless", "forever", [], [constant("forever", np.array(2**62, np.int64))])

    # What a row gets depends on the other rows of its batch.
    save(
        "centred",
        [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1), helper.make_node("Sub", ["x", "mean"], ["y"])],
        [tensor("x", FLOAT, [N, 1])],
        [tensor("y", FLOAT, [N, 1])],
    )

    # Models that must be refused.
    save("sums_batch", [helper.make_node("ReduceSum", ["x", "axis"], ["y"], keepdims=1)], [tensor("x", FLOAT, [N, 2])], [tensor("y", FLOAT, [1, 2])], [constant("axis", np.array([0], np.int64))])
    save("no_batch", [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", FLOAT, [3])], [tensor("y", FLOAT, [3])])
    save("no_input", [helper.make_node("Identity", ["c"], ["y"])], [], [tensor("y", FLOAT, [1])], [constant("c", np.array([1], np.float32))])
    save("unknown_operator", [helper.make_node("NoSuchOperator", ["x"], ["y"])], [tensor("x", FLOAT, [N, 1])], [tensor("y", FLOAT, [N, 1])], check=False)
    save("unknown_domain", [helper.make_node("Fancy", ["x"], ["y"], domain="com.example")], [tensor("x", FLOAT, [N, 1])], [tensor("y", FLOAT, [N, 1])], check=False, opsets=(("", 17), ("com.example", 1)))
    save("future_opset", [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", FLOAT, [N, 1])], [tensor("y", FLOAT, [N, 1])], check=False, opsets=(("", 900),))

    def external(name, entries):
        weights = TensorProto(name="weights", data_type=FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        for key, value in entries.items():
            entry = weights.external_data.add()
            entry.key, entry.value = key, value
        save(name, [helper.make_node("Mul", ["x", "weights"], ["y"])], [tensor("x", FLOAT, [N, 1])], [tensor("y", FLOAT, [N, 1])], [weights], check=False)

    external("external", {"location": "weights.bin", "length": "4"})
    external("external_climbs", {"location": "../../../../etc/passwd", "offset": "0", "length": "4"})
    # A place in the memory of the process, as ONNX Runtime marks it for itself.
    external("external_memory", {"location": "*/_ORT_MEM_ADDR_/*", "offset": "4096", "length": "4"})
    # The same inside the body of a loop, where a look at the top of the graph does not find it.
    hidden = TensorProto(name="weights", data_type=FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    entry = hidden.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    save(
        "external_nested",
        [helper.make_node("Constant", [], ["weights"], value=hidden), helper.make_node("Mul", ["x", "weights"], ["y"])],
        [tensor("x", FLOAT, [N, 1])],
        [tensor("y", FLOAT, [N, 1])],
        check=False,
    )
    # 64 GB of zeros, which loading works out ahead of any run.
    save(
        "gigabytes",
        [helper.make_node("ConstantOfShape", ["shape"], ["zeros"]), helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0), helper.make_node("Add", ["x", "sum"], ["y"])],
        [tensor("x", FLOAT, [N, 1])],
        [tensor("y", FLOAT, [N, 1])],
        [constant("shape", np.array([1 << 17, 1 << 17], np.int64))],
    )
    tensors()


def tensors():
    """Models of tensors.sql: shapes, batch axes, element types and kinds of output."""
    axis = constant("axis", np.array([0], np.int64))
    # A recurrent state: its batch is the second dimension, going in and coming out.
    save(
        "state",
        [helper.make_node("Squeeze", ["h0", "axis"], ["h"]), helper.make_node("Add", ["x", "h"], ["y"]), helper.make_node("Unsqueeze", ["y", "axis"], ["hn"])],
        [tensor("x", FLOAT, ["batch", 2]), tensor("h0", FLOAT, [1, "batch", 2])],
        [tensor("y", FLOAT, ["batch", 2]), tensor("hn", FLOAT, [1, "batch", 2])],
        [axis],
    )
    # A scalar that all rows share, and an output that has nothing to do with rows.
    save(
        "rate",
        [helper.make_node("Mul", ["x", "rate"], ["y"]), helper.make_node("Identity", ["names"], ["classes"])],
        [tensor("x", FLOAT, [N, 2]), tensor("rate", FLOAT, [])],
        [tensor("y", FLOAT, [N, 2]), tensor("classes", FLOAT, [3])],
        [constant("names", np.array([7, 8, 9], np.float32))],
    )
    # Rows of any length: twice a row, and its sum.
    save(
        "ragged",
        [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("ReduceSum", ["x", "last"], ["total"], keepdims=0)],
        [tensor("x", FLOAT, [N, "length"])],
        [tensor("twice", FLOAT, [N, "length"]), tensor("total", FLOAT, [N])],
        [constant("last", np.array([1], np.int64))],
    )
    # As many answers as there are numbers other than 0.
    save("nonzero", [helper.make_node("NonZero", ["x"], ["places"])], [tensor("x", FLOAT, [2, 3])], [tensor("places", TensorProto.INT64, [2, "k"])])
    rows = [1, 2, 1, 1, 2, 1, 1]
    # A row of 2^62 elements, and outputs without elements that print as billions of empty arrays.
    save("huge_row", [helper.make_node("Neg", ["x"], ["y"])], [tensor("x", FLOAT, [N, 2**31, 2**31])], [tensor("y", FLOAT, [N, 2**31, 2**31])])
    save("empty_arrays", [helper.make_node("Neg", ["x"], ["y"])], [tensor("x", FLOAT, [2**31, 0, 4])], [tensor("y", FLOAT, [2**31, 0, 4])])
    save("empty_rows", [helper.make_node("Expand", ["x", "shape"], ["y"])], [tensor("x", FLOAT, [1, 0]), tensor("shape", TensorProto.INT64, [2])], [tensor("y", FLOAT, ["k", 0])])
    save("rank7", [helper.make_node("Neg", ["x"], ["y"])], [tensor("x", FLOAT, [N, *rows])], [tensor("y", FLOAT, [N, *rows])])
    save(
        "pieces",
        [helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0, keepdims=0)],
        [tensor("x", FLOAT, [2, 2])],
        [helper.make_tensor_sequence_value_info("parts", FLOAT, None)],
    )
    save(
        "narrow",
        [helper.make_node("Identity", ["h"], ["h2"]), helper.make_node("Cast", ["b"], ["bf"], to=FLOAT), helper.make_node("Cast", ["bf"], ["b2"], to=TensorProto.BFLOAT16), helper.make_node("Identity", ["u"], ["u2"])],
        [tensor("h", TensorProto.FLOAT16, [N, 2]), tensor("b", TensorProto.BFLOAT16, [N, 2]), tensor("u", TensorProto.UINT64, [N, 2])],
        [tensor("h2", TensorProto.FLOAT16, [N, 2]), tensor("b2", TensorProto.BFLOAT16, [N, 2]), tensor("u2", TensorProto.UINT64, [N, 2])],
    )
    # The names of the features are in the file, as LightGBM and others leave them to be kept.
    save(
        "told",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", FLOAT, [N, 3])],
        [tensor("y", FLOAT, [N, 1])],
        [constant("w", np.array([[1], [10], [100]], np.float32))],
        properties={"feature_names": '["age", "income", "Debt Ratio"]'},
    )
    # Labels that are not UTF-8, as a program writes them that knows Latin-1 only: one for a number that no trial takes, and a map's key.
    ml = {"domain": "ai.onnx.ml"}
    save(
        "latin_label",
        [helper.make_node("LabelEncoder", ["code"], ["label"], keys_int64s=[1, 1000003], values_strings=[b"tea", b"caf\xe9"], default_string="other", **ml)],
        [tensor("code", TensorProto.INT64, [N])],
        [tensor("label", TensorProto.STRING, [N])],
        opsets=(("", 17), ("ai.onnx.ml", 3)),
    )
    save(
        "latin_key",
        [helper.make_node("ZipMap", ["x"], ["scores"], classlabels_strings=[b"tea", b"caf\xe9"], **ml)],
        [tensor("x", FLOAT, [N, 2])],
        [helper.make_value_info("scores", helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(FLOAT, []))))],
        opsets=(("", 17), ("ai.onnx.ml", 3)),
    )
    # Labels with a zero byte, which PostgreSQL's text cannot hold.
    save(
        "zero_label",
        [helper.make_node("LabelEncoder", ["code"], ["label"], keys_int64s=[1, 1000003], values_strings=[b"tea", b"te\0a"], default_string="other", **ml)],
        [tensor("code", TensorProto.INT64, [N])],
        [tensor("label", TensorProto.STRING, [N])],
        opsets=(("", 17), ("ai.onnx.ml", 3)),
    )
    save(
        "zero_key",
        [helper.make_node("ZipMap", ["x"], ["scores"], classlabels_strings=[b"tea", b"te\0a"], **ml)],
        [tensor("x", FLOAT, [N, 2])],
        [helper.make_value_info("scores", helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(FLOAT, []))))],
        opsets=(("", 17), ("ai.onnx.ml", 3)),
    )
    # A table of ten: a place beyond it fails the run. Single values, so that each row is one.
    save("table", [helper.make_node("Gather", ["ten", "place"], ["y"])], [tensor("place", TensorProto.INT64, [N])], [tensor("y", FLOAT, [N])], [constant("ten", np.arange(10, dtype=np.float32) * 10)])
    # The states of tokens: (token, position is text) of each; the same for four tokens and a batch of two.
    for name, batch, sequence in (("tokens", "batch", "sequence"), ("tokens_fixed", 2, 4)):
        save(
            name,
            [
                helper.make_node("Cast", ["input_ids"], ["ids"], to=FLOAT),
                helper.make_node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
                helper.make_node("Unsqueeze", ["ids", "last"], ["ids3"]),
                helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
                helper.make_node("Concat", ["ids3", "mask3"], ["states"], axis=2),
                helper.make_node("ReduceSum", ["ids", "one"], ["total"], keepdims=0),
            ],
            [tensor("input_ids", TensorProto.INT64, [batch, sequence]), tensor("attention_mask", TensorProto.INT64, [batch, sequence])],
            [tensor("states", FLOAT, [batch, sequence, 2]), tensor("total", FLOAT, [batch])],
            [constant("last", np.array([2], np.int64)), constant("one", np.array([1], np.int64))],
        )
    categories()


def categories():
    """Texts that are only looked up (one, and one twice), and texts of which more is done (both, and what is strict)."""
    text = TensorProto.STRING
    ml = {"domain": "ai.onnx.ml"}
    nodes = [
        helper.make_node("OneHotEncoder", ["colour"], ["colours"], cats_strings=["red", "", "grün"], zeros=1, **ml),
        helper.make_node(
            "LabelEncoder", ["size"], ["place"], keys_strings=["S", "M", "L"], values_int64s=[30, 10, 20], default_int64=-7, **ml
        ),
        helper.make_node("LabelEncoder", ["size"], ["weight"], keys_strings=["L", "XL"], values_floats=[0.5, 1.5], default_float=9.0, **ml),
        # Not only looked up: it is an output, too.
        helper.make_node("LabelEncoder", ["both"], ["known"], keys_strings=["a", "b"], values_int64s=[1, 2], default_int64=0, **ml),
        helper.make_node("Identity", ["both"], ["as_it_is"]),
        # An unknown text is an error of the run.
        helper.make_node("OneHotEncoder", ["strict"], ["stricts"], cats_strings=["yes", "no"], zeros=0, **ml),
        # Which of two that are the same counts is for ONNX Runtime to say.
        helper.make_node("OneHotEncoder", ["twice"], ["twices"], cats_strings=["a", "b", "a"], zeros=1, **ml),
    ]
    outputs = [
        tensor("colours", FLOAT, [N, 1, 3]),
        tensor("place", TensorProto.INT64, [N, 1]),
        tensor("weight", FLOAT, [N, 1]),
        tensor("known", TensorProto.INT64, [N, 1]),
        tensor("as_it_is", text, [N, 1]),
        tensor("stricts", FLOAT, [N, 1, 2]),
        tensor("twices", FLOAT, [N, 1, 3]),
    ]
    inputs = [tensor(name, text, [N, 1]) for name in ("colour", "size", "both", "strict", "twice")]
    save("categories", nodes, inputs, outputs, opsets=(("", 17), ("ai.onnx.ml", 3)))

    # Two trees over x0 and x1. NaN goes with x0 <= 1 and with x1 >= 0.
    #   tree 0: x0 <= 1 ? (x1 < 2 ? 1 : 2) : 4        tree 1: x1 >= 0 ? 10 : 20
    trees = {
        "nodes_treeids": [0, 0, 0, 0, 0, 1, 1, 1],
        "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_LT", "LEAF", "LEAF", "LEAF", "BRANCH_GTE", "LEAF", "LEAF"],
        "nodes_featureids": [0, 1, 0, 0, 0, 1, 0, 0],
        "nodes_values": [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        "nodes_truenodeids": [1, 3, 0, 0, 0, 1, 0, 0],
        "nodes_falsenodeids": [2, 4, 0, 0, 0, 2, 0, 0],
        "nodes_missing_value_tracks_true": [1, 0, 0, 0, 0, 1, 0, 0],
    }
    leaves = {"treeids": [0, 0, 0, 1, 1], "nodeids": [2, 3, 4, 1, 2], "weights": [4.0, 1.0, 2.0, 10.0, 20.0]}
    regressor = {f"target_{key}": value for key, value in leaves.items()} | {"target_ids": [0] * 5, "n_targets": 1, "base_values": [0.5]}
    classifier = {f"class_{key}": value for key, value in leaves.items()} | {"class_ids": [0, 1, 2, 0, 2], "classlabels_strings": ["low", "middle", "high"]}
    ml_opset = (("", 17), ("ai.onnx.ml", 3))
    save("trees", [helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], **trees, **regressor, **ml)], [tensor("x", FLOAT, [N, 2])], [tensor("y", FLOAT, [N, 1])], opsets=ml_opset)
    # The same trees as a classifier. Its input is scaled by 2 first.
    nodes = [
        helper.make_node("Scaler", ["x"], ["scaled"], scale=[2.0, 2.0], offset=[0.0, 0.0], **ml),
        helper.make_node("TreeEnsembleClassifier", ["scaled"], ["label", "scores"], **trees, **classifier, **ml),
    ]
    save("trees_labels", nodes, [tensor("x", FLOAT, [N, 2])], [tensor("label", text, [N]), tensor("scores", FLOAT, [N, 3])], opsets=ml_opset)
    # Trees that are wrong in one way each.
    hostile = {
        # The second node of a tree leads back to the first.
        "cycle": {"nodes_truenodeids": [1, 0, 0, 0, 0, 1, 0, 0]},
        "missing_child": {"nodes_truenodeids": [1, 7, 0, 0, 0, 1, 0, 0]},
        "huge_child": {"nodes_truenodeids": [1, 2**62, 0, 0, 0, 1, 0, 0]},
        "two_parents": {"nodes_truenodeids": [1, 2, 0, 0, 0, 1, 0, 0]},
        "huge_feature": {"nodes_featureids": [0, 2**40, 0, 0, 0, 1, 0, 0]},
        "negative_count": {"n_targets": -1},
        "huge_count": {"n_targets": 2**60},
        "short": {"nodes_values": [1.0, 2.0]},
        "target_out_of_range": {"target_ids": [0, 0, 2**31, 0, 0]},
        "nan_weight": {"target_weights": [4.0, float("nan"), 2.0, 10.0, 20.0]},
        "wrong_type": {"nodes_featureids": [0.5] * 8},
        "shared_numbers": {"nodes_treeids": [0] * 8},
    }
    for name, change in hostile.items():
        attributes = trees | regressor | change
        save(f"trees_{name}", [helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], **attributes, **ml)], [tensor("x", FLOAT, [N, 2])], [tensor("y", FLOAT, [N, 1])], opsets=ml_opset, check=False)
    attributes = trees | classifier | {"class_ids": [0, 1, 2, 0, 3]}
    save("trees_huge_class", [helper.make_node("TreeEnsembleClassifier", ["x"], ["label", "scores"], **attributes, **ml)], [tensor("x", FLOAT, [N, 2])], [tensor("label", text, [N]), tensor("scores", FLOAT, [N, 3])], opsets=ml_opset, check=False)
    # A tree whose root does not exist, in the newer operator.
    attributes = {
        "n_targets": 1, "tree_roots": [5], "nodes_featureids": [0], "nodes_modes": numpy_helper.from_array(np.zeros(1, np.uint8)),
        "nodes_splits": numpy_helper.from_array(np.ones(1, np.float32)), "nodes_truenodeids": [0], "nodes_trueleafs": [1],
        "nodes_falsenodeids": [1], "nodes_falseleafs": [1], "leaf_targetids": [0, 0], "leaf_weights": numpy_helper.from_array(np.ones(2, np.float32)),
    }  # fmt: skip
    save("trees_missing_root", [helper.make_node("TreeEnsemble", ["x"], ["y"], **attributes, **ml)], [tensor("x", FLOAT, [N, 2])], [tensor("y", FLOAT, [N, 1])], opsets=(("", 17), ("ai.onnx.ml", 5)), check=False)


if __name__ == "__main__":
    main()
