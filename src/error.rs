//! The error type of the extension. Its variants carry facts only.
//!
//! `pg/report.rs` maps every variant to SQLSTATE, message, DETAIL and HINT. No other file names an SQLSTATE.

use pg_predict_engine::error::Error as Engine;
use pg_predict_model_process::client::Cause;

/// The result type of the extension.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// An error, as facts.
#[derive(Debug, Clone)]
pub(crate) enum Error {
    /// The engine reported an error. `model` is the label of the model, if known.
    Engine { model: Option<String>, error: Engine },
    /// No model has this name.
    NoModel { name: String },
    /// The model has no such version.
    NoVersion { model: String, version: i32 },
    /// The model has no such alias.
    NoAlias { model: String, alias: String },
    /// No role has this name.
    NoRole { role: String },
    /// A name is not valid for this kind of object.
    BadName { what: &'static str, name: String, reason: &'static str },
    /// The caller lacks the privilege for this action on the model.
    NotPermitted { model: String, verb: &'static str },
    /// The caller may not read files on the server.
    NoFilePermission,
    /// A file on the server cannot be read.
    File { path: String, reason: String },
    /// A version cannot be dropped because aliases name it.
    AliasNames { model: String, version: i32, aliases: Vec<String> },
    /// An argument is NULL but must not be.
    NullArgument { what: &'static str },
    /// The model reference changes within one aggregate group.
    ModelChanges { first: String, then: String },
    /// The row lacks columns that the model needs.
    MissingColumns {
        model: String,
        missing: Vec<String>,
        given: Vec<String>,
        several_match: Option<String>,
        features_hint: bool,
    },
    /// The number of arguments does not match the inputs of the model.
    Arguments { model: String, given: usize, wanted: String, hint: Option<&'static str> },
    /// The row argument of a call resolved to a column with the same name as an item in FROM, and that column does not
    /// match the inputs of the model.
    ColumnNotRow { column: String, error: Box<Error> },
    /// Several columns, inputs or outputs have the same name.
    AmbiguousName { what: &'static str, name: String },
    /// An output value is out of range for the result type.
    ResultOutOfRange { model: String, output: String, value: String, type_name: String },
    /// A carried value is out of range for the type declared for its column.
    CarriedOutOfRange { column: String, value: i64, type_name: String },
    /// The type of a column or argument cannot be converted to the type of its input.
    WrongType { model: String, column: String, given: String, wanted: String, hint: Option<&'static str> },
    /// An array or bytea value does not match the shape of its input.
    ArrayShape { model: String, column: String, given: String, wanted: String, bytes: bool },
    /// A file of external weights is in a location that must not be read.
    Outside { location: String, reason: &'static str },
    /// An array contains NULL.
    ArrayNull { model: String, column: String, position: usize },
    /// A feature is NULL and the option `on_null` is `error`.
    NullFeature { model: String, column: String },
    /// A whole row is NULL and the option `on_null` is `error`.
    NullRow { model: String },
    /// A value does not fit the element type of its input.
    OutOfRange { model: String, column: String, element: String },
    /// The rows of one call have different columns.
    RowsDiffer,
    /// A column of the column definition list is neither an output nor a carried column.
    UnknownColumn { name: String, outputs: Vec<String>, carried: Vec<String> },
    /// A value cannot be returned as the declared type.
    CannotCast { column: String, from: String, to: String },
    /// An output has a kind that the called function (`predict_array` and others) cannot return.
    OutputKind { model: String, output: String, kind: String, function: &'static str, hint: String },
    /// A result is too large for one datum.
    TooLarge { bytes: usize },
    /// A text is not a valid value of type prediction_batch.
    BadBatch { reason: String },
    /// Binary data is not a valid value of type prediction_batch.
    BadBinary { reason: String },
    /// A row would exceed PostgreSQL's limit on the number of columns.
    TooManyColumns { columns: usize, limit: usize },
    /// The type of a stored column now has different columns than at the time of storage.
    TypeChanged { column: String, of: String },
    /// A temporary file cannot be written or read.
    TemporaryFile { path: String, reason: String },
    /// A handle was used after its query ended.
    StaleHandle,
    /// Statistics are not collected because the library is not preloaded.
    NotPreloaded,
    /// A version fails checks of its model, so an alias cannot be set to it.
    ChecksFail { model: String, version: i32, failed: Vec<String> },
    /// The function was called in a context that does not support it.
    Context { function: &'static str, reason: &'static str },
    /// The private data of a BatchPredict plan node is invalid.
    Plan { reason: String },
    /// The program of the model process could not be started.
    NoModelProcess { path: String, reason: String },
    /// The model process ended while it loaded or ran a model.
    ModelProcessEnded { model: Option<String>, cause: Cause, said: String },
    /// Validation exceeded its time limit.
    ProbeTimeout { milliseconds: u128 },
    /// Validation exceeded its memory limit.
    ProbeMemory { detail: String },
    /// The validation process ended abnormally.
    ProbeDied { how: String, said: String },
    /// The validation process gave no valid answer.
    ProbeAnswer { said: String },
    /// The HTML page of `predict.report()` could not be rendered.
    Report { reason: String },
}

impl From<Engine> for Error {
    fn from(error: Engine) -> Self {
        Self::Engine { model: None, error }
    }
}

/// Returns a function that adds the label of the model to an engine error.
pub(crate) fn of_model(model: &str) -> impl Fn(Engine) -> Error {
    move |error| Error::Engine { model: Some(model.to_owned()), error }
}
