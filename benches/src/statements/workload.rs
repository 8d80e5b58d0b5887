//! The workloads: which models are timed, on what rows, and how SQL calls them. A new model is a new entry in `WORKLOADS`.

use std::borrow::Cow;

/// A column that a model takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// A `real` column.
    Number(&'static str),
    /// A `text` column.
    Text(&'static str),
}

impl Feature {
    /// The column's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Number(name) | Self::Text(name) => name,
        }
    }
}

/// The output of a model that is the prediction.
pub struct Output {
    /// Its name.
    pub name: &'static str,
    /// Values that it has for a row.
    pub width: usize,
}

impl Output {
    /// What is called from SQL: the model, or the last value of its output where that has several.
    fn suffix(&self) -> Cow<'static, str> {
        if self.width == 1 { "".into() } else { format!("/{}[{}]", self.name, self.width).into() }
    }
}

/// A model to time.
pub struct Workload {
    /// Short name, the key in the results.
    pub name: &'static str,
    /// What the model is, for a reader.
    pub title: &'static str,
    /// The file, seen from the checkout.
    pub file: &'static str,
    /// The name under which it is registered.
    pub model: &'static str,
    /// The output that is the prediction; its last value is the score.
    pub output: Output,
    /// The table with its rows: `id integer`, and the features.
    pub table: &'static str,
    /// What the model takes, in its order.
    pub features: &'static [Feature],
    /// The model's only input, which takes all features; otherwise each feature is an input of its own.
    pub wide: Option<&'static str>,
    /// Whether everything that there is gets timed, and not only what the checklist needs.
    pub every_form: bool,
    /// Whether a run takes seconds: what its rows come as does not show then, so only columns are timed.
    pub slow: bool,
}

use Feature::{Number, Text};

/// The ten columns of `bench_rows`.
const TEN: &[Feature] = &[
    Number("a"),
    Number("b"),
    Number("c"),
    Number("d"),
    Number("e"),
    Number("f"),
    Number("g"),
    Number("h"),
    Number("i"),
    Number("j"),
];

/// Every workload, cheapest first.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "linear",
        title: "linear regression, 10 features",
        file: "benches/models/linear.onnx",
        model: "bench_linear",
        output: Output { name: "y", width: 1 },
        table: "bench_rows",
        features: TEN,
        wide: Some("x"),
        every_form: true,
        slow: false,
    },
    Workload {
        name: "mlp",
        title: "MLP 10-64-64-1",
        file: "benches/models/mlp.onnx",
        model: "bench_mlp",
        output: Output { name: "y", width: 1 },
        table: "bench_rows",
        features: TEN,
        wide: Some("x"),
        every_form: false,
        slow: false,
    },
    Workload {
        name: "lgbm",
        title: "LightGBM, 200 trees of 31 leaves",
        file: "benches/models/lgbm.onnx",
        model: "bench_lgbm",
        output: Output { name: "variable", width: 1 },
        table: "bench_rows",
        features: TEN,
        wide: Some("x"),
        every_form: false,
        slow: true,
    },
    Workload {
        name: "flights",
        title: "flights: one-hot encoder and LightGBM of 100 trees, 6 numbers and 3 texts",
        file: "models/late.onnx",
        model: "bench_flights_late",
        output: Output { name: "probabilities", width: 2 },
        table: "bench_flights",
        features: &[
            Number("month"),
            Number("day"),
            Number("sched_dep_time"),
            Number("sched_arr_time"),
            Number("distance"),
            Number("hour"),
            Text("carrier"),
            Text("origin"),
            Text("dest"),
        ],
        wide: None,
        every_form: false,
        slow: false,
    },
    Workload {
        name: "loans",
        title: "loans: encoders and logistic regression, 17 numbers and 5 texts",
        file: "models/credit.onnx",
        model: "bench_loans_credit",
        output: Output { name: "probabilities", width: 2 },
        table: "bench_loans",
        features: &[
            Number("funded_amnt"),
            Number("int_rate"),
            Number("annual_inc"),
            Number("delinq_2yrs"),
            Number("inq_last_6mths"),
            Number("revol_util"),
            Number("acc_now_delinq"),
            Number("open_il_6m"),
            Number("open_il_12m"),
            Number("open_il_24m"),
            Number("total_bal_il"),
            Number("all_util"),
            Number("inq_fi"),
            Number("inq_last_12m"),
            Number("delinq_amnt"),
            Number("num_il_tl"),
            Number("total_il_high_credit_limit"),
            Text("term"),
            Text("sub_grade"),
            Text("addr_state"),
            Text("verification_status"),
            Text("emp_length"),
        ],
        wide: None,
        every_form: false,
        slow: false,
    },
];

impl Workload {
    /// The features as arguments.
    pub fn columns(&self) -> String {
        self.features.iter().map(|feature| feature.name()).collect::<Vec<_>>().join(", ")
    }

    /// Whether a feature is text, so that tensors of strings must be built.
    pub fn has_text(&self) -> bool {
        self.features.iter().any(|feature| matches!(feature, Text(_)))
    }

    /// A sum that reads every feature and does no more with it.
    pub fn sum(&self) -> String {
        let terms: Vec<_> = self
            .features
            .iter()
            .map(|feature| match feature {
                Number(name) => Cow::from(*name),
                Text(name) => format!("octet_length({name})").into(),
            })
            .collect();
        format!("sum({})", terms.join(" + "))
    }

    /// A plain call over columns or over a row.
    pub fn predict(&self, arguments: &str) -> String {
        format!("predict('{}{}', {arguments})", self.model, self.output.suffix())
    }

    /// A batch over columns or over a row.
    pub fn predict_batch(&self, arguments: &str) -> String {
        let output = if self.output.width == 1 { String::new() } else { format!("/{}", self.output.name) };
        format!("predict_batch('{}{output}', {arguments})", self.model)
    }

    /// The type of the output in SQL, and how the score is taken from it.
    fn score(&self) -> (&'static str, String) {
        match self.output.width {
            1 => ("real", String::new()),
            width => ("real[]", format!("[{width}]")),
        }
    }

    /// The sum of the scores that `predictions()` gives for columns or for rows, which have a key.
    pub fn sum_of_predictions(&self, arguments: &str, table: &str) -> String {
        let (name, (kind, element)) = (self.output.name, self.score());
        let key = if arguments == "r" { "id integer, " } else { "" };
        format!(
            "SELECT sum(p.{name}{element}::float8) FROM predictions((SELECT {} FROM {table})) AS p({key}{name} {kind})",
            self.predict_batch(arguments)
        )
    }

    /// Keys and scores of whole rows that come back by `predictions()`.
    pub fn predictions(&self) -> String {
        let (name, (kind, element)) = (self.output.name, self.score());
        format!(
            "SELECT p.id, p.{name}{element} AS score FROM predictions((SELECT {} FROM {} r)) AS p(id integer, {name} {kind})",
            self.predict_batch("r"),
            self.table
        )
    }
}
