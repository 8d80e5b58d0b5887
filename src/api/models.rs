//! Implements the SQL functions of the registry.

use pgrx::pg_sys::Datum;

use crate::error::{Error, Result};
use crate::pg::call::{Call, pg_function};
use crate::pg::text;
use crate::registry::{self, Given};

pg_function!(pg_predict_create_model, pg_finfo_pg_predict_create_model, create_model);
pg_function!(pg_predict_create_model_from_file, pg_finfo_pg_predict_create_model_from_file, create_model_from_file);
pg_function!(pg_predict_drop_model, pg_finfo_pg_predict_drop_model, drop_model);
pg_function!(pg_predict_set_alias, pg_finfo_pg_predict_set_alias, set_alias);
pg_function!(pg_predict_drop_alias, pg_finfo_pg_predict_drop_alias, drop_alias);
pg_function!(pg_predict_grant_usage, pg_finfo_pg_predict_grant_usage, grant_usage);
pg_function!(pg_predict_revoke_usage, pg_finfo_pg_predict_revoke_usage, revoke_usage);
pg_function!(pg_predict_load_model, pg_finfo_pg_predict_load_model, load_model);

const VOID: Option<Datum> = Some(Datum::null());

/// Returns the options of a call. NULL means no options.
fn options(call: &Call, i: usize) -> Result<serde_json::Value> {
    match call.argument(i) {
        None => Ok(serde_json::json!({})),
        Some(jsonb) => {
            serde_json::from_str(&text::of_jsonb(jsonb)).map_err(|e| Error::BadBatch { reason: e.to_string() })
        }
    }
}

fn create_model(call: &Call) -> Result<Option<Datum>> {
    let name = call.text(0, "the model's name")?;
    let model = call.argument(1).ok_or(Error::NullArgument { what: "the model" })?;
    let given = Given {
        model: text::varlena(model),
        tokenizer: call.argument(3).map(|json| text::of_jsonb(json).into_bytes()),
        external: call.argument(4).map(text::varlena),
        folder: None,
    };
    registry::create(&name, &given, &options(call, 2)?).map(|n| Some(n.into()))
}

fn create_model_from_file(call: &Call) -> Result<Option<Datum>> {
    let (name, path) = (call.text(0, "the model's name")?, call.text(1, "the path")?);
    let tokenizer = call.argument(3).map(|_| call.text(3, "the path of the tokenizer")).transpose()?;
    registry::create_from_file(&name, &path, &options(call, 2)?, tokenizer.as_deref()).map(|n| Some(n.into()))
}

fn drop_model(call: &Call) -> Result<Option<Datum>> {
    registry::drop_model(&call.text(0, "the model's name")?, call.int(1)).map(|()| VOID)
}

fn set_alias(call: &Call) -> Result<Option<Datum>> {
    let (name, alias) = (call.text(0, "the model's name")?, call.text(1, "the alias")?);
    let version = call.int(2).ok_or(Error::NullArgument { what: "the version" })?;
    let force = call.argument(3).is_some_and(|d| d.value() != 0);
    registry::set_alias(&name, &alias, version, force).map(|()| VOID)
}

fn drop_alias(call: &Call) -> Result<Option<Datum>> {
    registry::drop_alias(&call.text(0, "the model's name")?, &call.text(1, "the alias")?).map(|()| VOID)
}

fn grant_usage(call: &Call) -> Result<Option<Datum>> {
    registry::set_usage(&call.text(0, "the model's name")?, &call.text(1, "the role")?, true).map(|()| VOID)
}

fn revoke_usage(call: &Call) -> Result<Option<Datum>> {
    registry::set_usage(&call.text(0, "the model's name")?, &call.text(1, "the role")?, false).map(|()| VOID)
}

/// Loads the session of a model and returns the milliseconds that took. Returns 0 if it was loaded already.
fn load_model(call: &Call) -> Result<Option<Datum>> {
    let resolved = registry::resolve(&call.text(0, "the model reference")?)?;
    let took = registry::load_model(&resolved.version)?;
    Ok(Some(Datum::from((took.as_secs_f64() * 1e3).to_bits())))
}
