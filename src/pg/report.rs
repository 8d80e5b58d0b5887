//! Reports errors and notices. One table maps every error to SQLSTATE, message, DETAIL and HINT.
//!
//! Messages start in lower case, have no full stop and quote names. DETAIL and HINT are sentences.

use pg_predict_engine::error::{DeviceMissing, Error as Engine};
use pg_predict_engine::options::Options;
use pg_predict_model_process::client::Cause;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::panic::ErrorReport;

use crate::error::Error;
use crate::pg::quoting::printable;
use crate::pg::text;

/// Prepares a text for the client: in one line, whatever names it contains.
fn sendable(text: String) -> String {
    text::sendable(printable(&text).into_owned())
}

struct Report {
    code: Code,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

fn report(code: Code, message: impl Into<String>) -> Report {
    Report { code, message: message.into(), detail: None, hint: None }
}

impl Report {
    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Returns the primary message of an error.
pub(crate) fn message(error: Error) -> String {
    table(error).message
}

/// Returns the primary message and the DETAIL of an error in one line.
pub(crate) fn in_a_line(error: Error) -> String {
    let report = table(error);
    match report.detail {
        Some(detail) => format!("{}: {detail}", report.message),
        None => report.message,
    }
}

/// Reports the progress of a query to the client as a notice.
pub(crate) fn progress(model: &str, rows: u64, expected: Option<f64>, time: std::time::Duration) {
    let seconds = time.as_secs_f64().max(1e-3);
    let speed = rows as f64 / seconds;
    let expected = expected.filter(|e| *e >= rows as f64);
    let of = expected.map_or_else(String::new, |e| format!(" of about {e:.0}"));
    let left = expected.filter(|_| speed > 0.0);
    let left = left.map_or_else(String::new, |e| format!(", about {:.0} s left", (e - rows as f64) / speed));
    ErrorReport::new(
        Code::ERRCODE_SUCCESSFUL_COMPLETION,
        sendable(format!("model \"{model}\": {rows}{of} rows in {seconds:.1} s, {speed:.0} rows a second{left}")),
        "pg_predict",
    )
    .report(pgrx::PgLogLevel::NOTICE);
}

/// Sends a notice to the client.
pub(crate) fn notice(message: &str, detail: &str) {
    ErrorReport::new(Code::ERRCODE_SUCCESSFUL_COMPLETION, sendable(message.to_owned()), "pg_predict")
        .set_detail(sendable(detail.to_owned()))
        .report(pgrx::PgLogLevel::NOTICE);
}

/// The expression that passes the whole row of an item in FROM, even if a column has the same name.
fn whole_row(name: &str) -> String {
    format!("{}.*", text::quote_identifier(name))
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ")
}

/// Raises an error. This is the only function that does: the entry point of the SQL function turns the panic into a
/// PostgreSQL error.
#[track_caller]
#[allow(clippy::panic)]
pub(crate) fn raise(error: Error) -> ! {
    let r = table(error);
    let mut e = ErrorReport::new(r.code, sendable(r.message), "pg_predict");
    if let Some(detail) = r.detail {
        e = e.set_detail(sendable(detail));
    }
    if let Some(hint) = r.hint {
        e = e.set_hint(sendable(hint));
    }
    std::panic::panic_any(e)
}

/// Sends a warning to the client.
pub(crate) fn warn(message: &str, detail: &str, hint: &str) {
    ErrorReport::new(Code::ERRCODE_WARNING, sendable(message.to_owned()), "pg_predict")
        .set_detail(sendable(detail.to_owned()))
        .set_hint(sendable(hint.to_owned()))
        .report(pgrx::PgLogLevel::WARNING);
}

/// Warns about the rows of a query that could not be run and are NULL. `first` is the first of them, and its error.
pub(crate) fn rows_failed(model: &str, version: i32, rows: u64, first: Option<&(String, String)>) {
    let Some((which, reason)) = first else { return };
    let (rows, are) = match rows {
        1 => ("1 row".to_owned(), "is"),
        n => (format!("{n} rows"), "are"),
    };
    warn(
        &format!("{rows} could not be run with model \"{model}@{version}\", and {are} NULL"),
        &format!("The first is {which}: {reason}"),
        "The version was created with the option \"on_error\": \"null\".",
    );
}

/// Writes a line to the server log.
pub(crate) fn log(message: String) {
    ErrorReport::new(Code::ERRCODE_SUCCESSFUL_COMPLETION, message, "pg_predict").report(pgrx::PgLogLevel::LOG);
}

/// Writes a line for those who look for a fault, at DEBUG1.
pub(crate) fn debug(message: String) {
    ErrorReport::new(Code::ERRCODE_SUCCESSFUL_COMPLETION, message, "pg_predict").report(pgrx::PgLogLevel::DEBUG1);
}

fn table(error: Error) -> Report {
    match error {
        Error::Engine { model, error } => engine(model, error),
        Error::NoModel { name } => report(Code::ERRCODE_UNDEFINED_OBJECT, format!("model \"{name}\" does not exist"))
            .hint("The view predict.models lists the models."),
        Error::NoVersion { model, version } => {
            report(Code::ERRCODE_UNDEFINED_OBJECT, format!("model \"{model}\" has no version {version}"))
                .hint("The view predict.models lists the versions.")
        }
        Error::NoAlias { model, alias } => {
            report(Code::ERRCODE_UNDEFINED_OBJECT, format!("model \"{model}\" has no alias \"{alias}\""))
                .hint("The view predict.models lists the aliases.")
        }
        Error::NoRole { role } => report(Code::ERRCODE_UNDEFINED_OBJECT, format!("role \"{role}\" does not exist")),
        Error::BadName { what, name, reason } => {
            report(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("\"{name}\" cannot name {what}: {reason}"))
        }
        Error::NotPermitted { model, verb } => {
            let r = report(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("permission denied for model \"{model}\""));
            if verb == "use" {
                r.hint("Its owner can grant the use of it with predict.grant_usage().")
            } else {
                r.detail(format!("Only its owner may {verb} it."))
            }
        }
        Error::NoFilePermission => {
            report(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, "permission denied to read a file of the server")
                .detail("Only roles with privileges of the \"pg_read_server_files\" role may.")
                .hint("predict.create_model() takes the model's bytes from the client.")
        }
        Error::File { path, reason } => {
            report(Code::ERRCODE_UNDEFINED_FILE, format!("could not read file \"{path}\": {reason}"))
                .hint("The path is one on the server, read as the user that the server runs as.")
        }
        Error::AliasNames { model, version, aliases } => report(
            Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            format!("cannot drop version {version} of model \"{model}\" because an alias names it"),
        )
        .detail(format!("The aliases that name it: {}.", quoted(&aliases)))
        .hint("Point them at another version with predict.set_alias(), or drop the whole model."),
        Error::NullArgument { what } => {
            report(Code::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{what} must not be NULL"))
        }
        Error::ModelChanges { first, then } => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("predict_batch got model \"{then}\" after \"{first}\" in one group"),
        )
        .hint("One result is of one model: add GROUP BY the model's name."),
        Error::MissingColumns { model, missing, given, several_match, features_hint } => {
            let r = report(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!(
                    "model \"{model}\" needs {} that the row does not have: {}",
                    if missing.len() == 1 { "a column" } else { "columns" },
                    quoted(&missing)
                ),
            )
            .detail(match several_match {
                Some(column) => format!("More than one column of the row differs from \"{column}\" only in case."),
                None if given.is_empty() => "The row has no column.".to_owned(),
                None => format!("The row has: {}.", quoted(&given)),
            });
            if features_hint {
                r.hint("The option \"features\" of predict.create_model() names the columns that make up a wide input, in order, or that hold a text.")
            } else {
                r.hint("Columns are matched to inputs by name; the view predict.model_inputs lists the inputs.")
            }
        }
        Error::ColumnNotRow { column, error } => table(*error).hint(format!(
            "\"{column}\" is a column, and a table or subquery of the query has the same name: {} passes its row.",
            whole_row(&column)
        )),
        Error::Arguments { model, given, wanted, hint } => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("model \"{model}\" takes {wanted}, and got {given} {}", if given == 1 { "value" } else { "values" }),
        )
        .hint(hint.unwrap_or("Pass one value for each, or one row whose columns have the names of the inputs.")),
        Error::AmbiguousName { what, name } => report(
            Code::ERRCODE_AMBIGUOUS_COLUMN,
            format!("{what} reference \"{name}\" is ambiguous"),
        )
        .hint(match what {
            "output" => "Two outputs of the model are the same in the first 63 bytes of their names: predict_json() returns them, or name one, as in 'model/output'.",
            _ => "Pass a row in which each name occurs once. Names are compared by their first 63 bytes, and a name that differs only by case stands for one column.",
        }),
        Error::ResultOutOfRange { model, output, value, type_name } => report(
            Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!("output \"{output}\" of model \"{model}\" has the value {value}, which type {type_name} cannot represent"),
        )
        .hint("predict_json(), predict_text(), a cast to bigint[], float8[], text[] or jsonb, or a column of a wider type in predictions() returns it exactly."),
        Error::Report { reason } => {
            report(Code::ERRCODE_INTERNAL_ERROR, "the report cannot be rendered").detail(reason)
        }
        Error::CarriedOutOfRange { column, value, type_name } => report(
            Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!("column \"{column}\" has the value {value}, which type {type_name} cannot represent"),
        )
        .hint("Declare the column as bigint, numeric or text."),
        Error::WrongType { model, column, given, wanted, hint } => {
            let r = report(
                Code::ERRCODE_DATATYPE_MISMATCH,
                format!("column \"{column}\" of type {given} does not go into an input of type {wanted}"),
            )
            .detail(format!("Model \"{model}\"."));
            match hint {
                Some(hint) => r.hint(hint),
                None => r.hint("Cast it to a type that holds the same values."),
            }
        }
        Error::ArrayShape { model, column, given, wanted, bytes } => {
            let what = if bytes { "bytea" } else { "array" };
            report(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("{what} \"{column}\" has {given}, and model \"{model}\" takes {wanted}"),
            )
            .hint(match (wanted.contains("any"), bytes) {
                (true, true) => "A bytea holds the elements as they lie in memory, little-endian; the option \"shapes\" of predict.create_model() tells the dimensions that the model leaves open.",
                (false, true) => "A bytea holds the elements as they lie in memory, little-endian.",
                (true, false) => "An array has the shape of a row; the option \"shapes\" of predict.create_model() tells the dimensions that the model leaves open, and then one dimension with all elements will do.",
                (false, false) => "An array has the shape of a row, or one dimension with all its elements.",
            })
        }
        Error::Outside { location, reason } => report(
            Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("the model keeps weights in file \"{location}\", which may not be read: {reason}"),
        )
        .hint("Its files are regular files in the folder of the model, without links."),
        Error::ArrayNull { model, column, position } => report(
            Code::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("element {position} of array \"{column}\" is NULL"),
        )
        .detail(format!("Model \"{model}\"."))
        .hint("A version made with the option \"on_null\": \"nan\" takes NaN for it, where its input is of a float type."),
        Error::NullFeature { model, column } => report(
            Code::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("column \"{column}\" is NULL"),
        )
        .detail(format!("Model \"{model}\" was created with the option \"on_null\": \"error\".")),
        Error::NullRow { model } => report(Code::ERRCODE_NULL_VALUE_NOT_ALLOWED, "the row is NULL")
            .detail(format!("Model \"{model}\" was created with the option \"on_null\": \"error\".")),
        Error::OutOfRange { model, column, element } => report(
            Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!("a value of column \"{column}\" does not fit type {element}"),
        )
        .detail(format!("Model \"{model}\".")),
        Error::RowsDiffer => report(
            Code::ERRCODE_DATATYPE_MISMATCH,
            "rows of one predict_batch call differ in their columns",
        ),
        Error::UnknownColumn { name, outputs, carried } => {
            let carried = if carried.is_empty() { "none".to_owned() } else { quoted(&carried) };
            report(
                Code::ERRCODE_INVALID_COLUMN_DEFINITION,
                format!("column \"{name}\" is neither an output of the model nor a carried column"),
            )
            .detail(format!("Outputs: {}. Carried: {carried}.", quoted(&outputs)))
        }
        Error::CannotCast { column, from, to } => report(
            Code::ERRCODE_DATATYPE_MISMATCH,
            format!("column \"{column}\" of type {from} cannot be given as {to}"),
        )
        .hint(format!("Declare it as {from}, and cast it in the select list.")),
        Error::OutputKind { model, output, kind, function, hint } => report(
            Code::ERRCODE_DATATYPE_MISMATCH,
            format!("{function} cannot return output \"{output}\" of model \"{model}\", which is {kind}"),
        )
        .hint(hint),
        Error::TooLarge { bytes } => report(
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a prediction_batch of {} MB does not fit into one value", bytes >> 20),
        )
        .detail("PostgreSQL's values are at most 1 GB.")
        .hint("Read it where it is made: SELECT .. FROM predictions((SELECT predict_batch(..) FROM ..)) has no such limit."),
        Error::BadBatch { reason } => report(
            Code::ERRCODE_INVALID_TEXT_REPRESENTATION,
            "invalid value of type prediction_batch",
        )
        .detail(reason),
        Error::BadBinary { reason } => report(
            Code::ERRCODE_INVALID_BINARY_REPRESENTATION,
            "invalid value of type prediction_batch",
        )
        .detail(reason),
        Error::TooManyColumns { columns, limit } => report(
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a row of carried columns and outputs would have {columns} columns, and a row has at most {limit}"),
        )
        .hint("Pass a row with the columns that the model takes and those that are needed with the predictions."),
        Error::TypeChanged { column, of } => report(
            Code::ERRCODE_DATA_CORRUPTED,
            format!("the type \"{of}\" of column \"{column}\" has other columns than when its values were stored"),
        )
        .hint("Declare the column as text in the column definition list of predictions()."),
        Error::TemporaryFile { path, reason } => report(
            Code::ERRCODE_IO_ERROR,
            format!("could not use temporary file \"{path}\": {reason}"),
        ),
        Error::Plan { reason } => {
            report(Code::ERRCODE_INTERNAL_ERROR, "a plan node of pg_predict cannot be read").detail(reason)
        }
        Error::StaleHandle => report(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "a prediction batch handle is used outside of its query",
        )
        .hint("Use predict_batch() and predictions()."),
        Error::NotPreloaded => report(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "statistics of models are not collected",
        )
        .detail("pg_predict is not in shared_preload_libraries.")
        .hint("Add pg_predict to shared_preload_libraries in postgresql.conf and restart the server."),
        Error::ChecksFail { model, version, failed } => report(
            Code::ERRCODE_CHECK_VIOLATION,
            format!("version {version} of model \"{model}\" fails its checks"),
        )
        .detail(failed.join(" "))
        .hint("predict.check() shows the row that differs most. If the difference is acceptable, add the check again with a larger tolerance, or set the alias with force => true."),
        Error::Context { function, reason } => {
            report(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("{function} {reason}"))
        }
        Error::NoModelProcess { path, reason } => report(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("could not start the model process: {reason}"),
        )
        .detail(format!("The program is expected at \"{path}\"."))
        .hint("\"make install\" of pg_predict puts it there."),
        Error::ModelProcessEnded { model, cause, said } => {
            let who = model.map_or_else(String::new, |model| format!(" of model \"{model}\""));
            let (how, detail) = end_of_process(cause, &said);
            let hint = "The next call starts another process. With the option on_error = 'null', only the rows that end \
                        the process become NULL.";
            let mut r = report(Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, format!("the model process{who} {how}"));
            r.detail = Some(detail).filter(|detail| !detail.is_empty());
            r.hint(hint)
        }
        Error::ProbeTimeout { milliseconds } => report(
            Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            format!("trying the model took longer than {milliseconds} ms"),
        )
        .hint("The setting pg_predict.validation_timeout says how long it may take."),
        Error::ProbeMemory { detail } => report(
            Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "the model needs more memory than may be used to try it",
        )
        .detail(detail)
        .hint("The setting pg_predict.validation_memory_limit says how much it may use."),
        Error::ProbeDied { how, said } => {
            let r = report(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("the model crashed the program that tries it: {how}"),
            );
            if said.is_empty() { r } else { r.detail(format!("It said: {said}")) }
        }
        Error::ProbeAnswer { said } => {
            let r = report(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                "the program that tries the model gave no valid answer".to_owned(),
            );
            if said.is_empty() { r } else { r.detail(format!("It said: {said}")) }
        }
    }
}

/// Describes how a model process ended: for the message, and for the DETAIL.
fn end_of_process(cause: Cause, said: &str) -> (String, String) {
    let memory = ["memory allocation of", "bad_alloc", "cannot allocate", "Cannot allocate"];
    let mut detail = match cause {
        Cause::Signal(libc::SIGFPE) => "An integer was divided by zero, or a quotient did not fit.".to_owned(),
        Cause::Signal(libc::SIGSYS) => "It made a system call that its sandbox forbids.".to_owned(),
        Cause::Signal(libc::SIGKILL) => "The system may have run out of memory.".to_owned(),
        Cause::Signal(libc::SIGABRT) if memory.iter().any(|words| said.contains(words)) => {
            "It needed more memory than the setting pg_predict.model_process_memory_limit allows.".to_owned()
        }
        Cause::Stopped => "It was stopped by a signal, and was killed therefore.".to_owned(),
        _ => String::new(),
    };
    if !said.is_empty() {
        let line = said.lines().next().unwrap_or_default();
        detail = format!("{detail} It wrote: {line}").trim_start().to_owned();
    }
    let how = match cause {
        Cause::Signal(signal) => format!("was terminated by signal {signal}{}", signal_name(signal)),
        Cause::Exit(code) => format!("exited with code {code}"),
        Cause::Stopped => "was stopped".to_owned(),
        Cause::Killed => "did not respond and was killed".to_owned(),
    };
    (how, detail)
}

/// Returns the name of a signal in parentheses.
fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(|_| String::new(), |signal| format!(" ({signal})"))
}

fn engine(model: Option<String>, error: Engine) -> Report {
    let of = |text: &str| match &model {
        Some(model) => format!("model \"{model}\" {text}"),
        None => format!("the model {text}"),
    };
    match error {
        Engine::Library { path, reason } => report(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("could not load the ONNX Runtime library \"{path}\""),
        )
        .detail(reason)
        .hint("\"make install\" of pg_predict puts the library there; the setting pg_predict.onnxruntime_library names another."),
        Engine::Device { device, missing, reason } => {
            let (what, hint) = match missing {
                DeviceMissing::Provider => (
                    "this ONNX Runtime library has no CUDA in it",
                    "\"make install ORT=gpu\" of pg_predict installs the library with CUDA.",
                ),
                DeviceMissing::Libraries => (
                    "the CUDA or cuDNN libraries cannot be loaded",
                    "Install CUDA and cuDNN in the versions that the ONNX Runtime library names.",
                ),
                DeviceMissing::Driver => {
                    ("there is no CUDA driver or no card", "The program nvidia-smi shows the driver and the cards.")
                }
                DeviceMissing::Id => {
                    ("there is no card with this number", "The program nvidia-smi lists the cards, from 0.")
                }
                DeviceMissing::Other => ("ONNX Runtime gave another reason", "The device \"auto\" falls back to cpu."),
            };
            report(
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("device \"{device}\" is not available: {what}"),
            )
            .detail(reason)
            .hint(hint)
        }
        Engine::InvalidModel { reason } => {
            report(Code::ERRCODE_INVALID_PARAMETER_VALUE, "these bytes are not a valid ONNX model").detail(reason)
        }
        Engine::Unsupported { what, reason } => {
            report(Code::ERRCODE_FEATURE_NOT_SUPPORTED, of(&format!("is not supported: {what}"))).detail(reason)
        }
        Engine::ExternalData { tensor } => report(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("the model keeps tensor \"{tensor}\" outside of the file, and it is not a weight of the main graph"),
        )
        .hint("Save it as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)."),
        Engine::ExternalFile { location, reason } => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            if location.is_empty() {
                format!("the weights outside of the model cannot be taken: {reason}")
            } else {
                format!("the model keeps weights in file \"{location}\": {reason}")
            },
        )
        .hint("predict.create_model() takes one such file as external_data, create_model_from_file() all that lie beside the model."),
        Engine::Tokenizer { reason } => {
            report(Code::ERRCODE_INVALID_PARAMETER_VALUE, "the tokenizer cannot be read").detail(reason).hint(
                "It is a tokenizer.json as the Hugging Face library tokenizers saves it.",
            )
        }
        Engine::Locale { reason } => {
            report(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, of("needs a locale that is not installed"))
                .detail(reason)
                .hint("Install it on the server, on Debian with: apt-get install locales; localedef -i en_US -f UTF-8 en_US.UTF-8")
        }
        Engine::OutOfMemory { what, bytes } => {
            let size = if bytes > 0 { format!(" of {bytes} bytes") } else { String::new() };
            report(Code::ERRCODE_OUT_OF_MEMORY, format!("out of memory for {what}{size}"))
                .hint("A smaller pg_predict.batch_size needs less.")
        }
        Engine::Run { reason } => {
            report(Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, of("failed while running")).detail(reason)
        }
        Engine::OutputRows { output, shape, rows } => report(
            Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
            of(&format!("did not answer row by row: output \"{output}\"")),
        )
        .detail(format!("{rows} rows went in, and the output has shape {shape:?}.")),
        Engine::OutputChanged { output, expected, got } => report(
            Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
            of(&format!("gave output \"{output}\" in another form than when it was created")),
        )
        .detail(format!("Then {expected}, now {got}.")),
        Engine::NotText { output, why } => report(
            Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
            of(&format!("returned a text that {why} in output \"{output}\"")),
        )
        .hint("Save the model again with its labels as UTF-8 without zero bytes. In Python, label.decode(\"latin-1\") makes a str of Latin-1 bytes."),
        Engine::Hash { expected, got } => {
            report(Code::ERRCODE_DATA_CORRUPTED, of("is damaged: its stored bytes fail their hash"))
                .detail(format!("They should have sha256 {expected} and have {got}."))
                .hint("Restore the tables predict.content and predict.chunk from a backup, or create the version again.")
        }
        Engine::CacheTooSmall { needed, limit } => report(
            Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            of(&format!("needs {} MB in memory, and loaded models may take {} MB", needed.div_ceil(1 << 20), limit >> 20)),
        )
        .hint("The setting pg_predict.session_cache_size says how much they may take."),
        Engine::Option { key, reason } if key.is_empty() => {
            report(Code::ERRCODE_INVALID_PARAMETER_VALUE, "invalid options")
                .detail(format!("{reason}."))
                .hint("Write them as in '{\"batch_size\": 1000}'.")
        }
        Engine::Option { key, reason } => {
            let r = report(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("invalid option \"{key}\""));
            let unknown = !Options::names().contains(&key.as_str());
            let r = r.detail(format!("{reason}."));
            if unknown { r.hint(format!("The options are {}.", Options::names().join(", "))) } else { r }
        }
        Engine::Reference { text, reason } => {
            report(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("invalid model reference \"{text}\": {reason}"))
                .hint("A reference is name[@version | @alias][/output[element]].")
        }
        Engine::NoOutput { output, known } => {
            report(Code::ERRCODE_UNDEFINED_OBJECT, of(&format!("has no output \"{output}\"")))
                .detail(format!("Its outputs: {}.", quoted(&known)))
        }
        Engine::NoElement { output, element, known } => {
            report(Code::ERRCODE_UNDEFINED_OBJECT, of(&format!("has no element \"{element}\" in output \"{output}\"")))
                .detail(format!("It has {known}."))
        }
        Engine::Malformed { reason } => {
            report(Code::ERRCODE_INVALID_TEXT_REPRESENTATION, "invalid value of type prediction_batch").detail(reason)
        }
        Engine::TooLarge { bytes } => table(Error::TooLarge { bytes }),
        Engine::Protocol { what } => {
            report(Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, of("failed: its model process broke the protocol"))
                .detail(format!("{what}. The process was killed."))
        }
        Engine::Corrupt { what } => report(Code::ERRCODE_DATA_CORRUPTED, "damaged prediction batch").detail(what),
    }
}
