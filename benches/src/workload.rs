//! The workloads: which models are timed, and on what rows. A new model is a new entry in `WORKLOADS`.

/// The feature columns of `bench_rows`, in the order in which a model takes them.
pub const FEATURES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

/// A model to time.
pub struct Workload {
    /// Short name, the key in the results.
    pub name: &'static str,
    /// What the model is, for a reader.
    pub title: &'static str,
    /// The file under `benches/models`.
    pub file: &'static str,
    /// The name under which it is registered.
    pub model: &'static str,
    /// The output that is the prediction, float [N, 1].
    pub output: &'static str,
}

/// Every workload, cheapest first.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "linear",
        title: "linear regression, 10 features",
        file: "linear.onnx",
        model: "bench_linear",
        output: "y",
    },
    Workload { name: "mlp", title: "MLP 10-64-64-1", file: "mlp.onnx", model: "bench_mlp", output: "y" },
    Workload {
        name: "lgbm",
        title: "LightGBM, 200 trees of 31 leaves",
        file: "lgbm.onnx",
        model: "bench_lgbm",
        output: "variable",
    },
];
