-- The aggregate that makes a prediction_batch, and the functions and casts that read it.

CREATE FUNCTION predict_internal.predictions_support(internal) RETURNS internal
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_predictions_support';
CREATE FUNCTION @extschema@.predictions(batch @extschema@.prediction_batch) RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL SAFE ROWS 10000 COST 1000 SUPPORT predict_internal.predictions_support
    AS 'MODULE_PATHNAME', 'pg_predict_predictions';
COMMENT ON FUNCTION @extschema@.predictions(@extschema@.prediction_batch) IS
    'the rows of a batch; columns are matched by name to the model''s outputs, then to the columns carried along';
CREATE FUNCTION predict_internal.predictions_of_handle(batch predict_internal.batch_handle) RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED ROWS 10000 COST 1000 AS 'MODULE_PATHNAME', 'pg_predict_predictions_of_handle';

CREATE FUNCTION predict_internal.cast_support(internal) RETURNS internal
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_cast_support';
CREATE FUNCTION predict_internal.to_real(@extschema@.prediction_batch) RETURNS real[]
    LANGUAGE c STABLE STRICT PARALLEL SAFE SUPPORT predict_internal.cast_support AS 'MODULE_PATHNAME', 'pg_predict_batch_to_real';
CREATE FUNCTION predict_internal.to_double(@extschema@.prediction_batch) RETURNS float8[]
    LANGUAGE c STABLE STRICT PARALLEL SAFE SUPPORT predict_internal.cast_support AS 'MODULE_PATHNAME', 'pg_predict_batch_to_double';
CREATE FUNCTION predict_internal.to_bigint(@extschema@.prediction_batch) RETURNS bigint[]
    LANGUAGE c STABLE STRICT PARALLEL SAFE SUPPORT predict_internal.cast_support AS 'MODULE_PATHNAME', 'pg_predict_batch_to_bigint';
CREATE FUNCTION predict_internal.to_text(@extschema@.prediction_batch) RETURNS text[]
    LANGUAGE c STABLE STRICT PARALLEL SAFE SUPPORT predict_internal.cast_support AS 'MODULE_PATHNAME', 'pg_predict_batch_to_text';
CREATE FUNCTION predict_internal.to_jsonb(@extschema@.prediction_batch) RETURNS jsonb
    LANGUAGE c STABLE STRICT PARALLEL SAFE SUPPORT predict_internal.cast_support AS 'MODULE_PATHNAME', 'pg_predict_batch_to_jsonb';
CREATE CAST (@extschema@.prediction_batch AS real[]) WITH FUNCTION predict_internal.to_real(@extschema@.prediction_batch);
CREATE CAST (@extschema@.prediction_batch AS float8[]) WITH FUNCTION predict_internal.to_double(@extschema@.prediction_batch);
CREATE CAST (@extschema@.prediction_batch AS bigint[]) WITH FUNCTION predict_internal.to_bigint(@extschema@.prediction_batch);
CREATE CAST (@extschema@.prediction_batch AS text[]) WITH FUNCTION predict_internal.to_text(@extschema@.prediction_batch);
CREATE CAST (@extschema@.prediction_batch AS jsonb) WITH FUNCTION predict_internal.to_jsonb(@extschema@.prediction_batch);

CREATE FUNCTION predict_internal.call_support(internal) RETURNS internal
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_call_support';
COMMENT ON FUNCTION predict_internal.call_support(internal) IS 'tells the planner what calls and rows cost';
CREATE FUNCTION predict_internal.batch_transition(internal, text, VARIADIC "any") RETURNS internal
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 SUPPORT predict_internal.call_support AS 'MODULE_PATHNAME', 'pg_predict_batch_transition';
CREATE FUNCTION predict_internal.batch_combine(internal, internal) RETURNS internal
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_batch_combine';
CREATE FUNCTION predict_internal.batch_serialize(internal) RETURNS bytea
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_batch_serialize';
CREATE FUNCTION predict_internal.batch_deserialize(bytea, internal) RETURNS internal
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_batch_deserialize';
CREATE FUNCTION predict_internal.batch_final(internal) RETURNS @extschema@.prediction_batch
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_batch_final';
CREATE FUNCTION predict_internal.batch_final_handle(internal) RETURNS predict_internal.batch_handle
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_batch_final_handle';

-- A column of predictions((SELECT predict_batch(..) ..)) in FROM, as the planner replaces it: the model, the column definition
-- list, the number of the column in it, the value of the row's column of that name, and the row. Only the planner can make a call
-- whose type is that of the column.
CREATE FUNCTION predict_internal.prediction_column(model text, definition text, number integer, carried "any", VARIADIC "rows" "any") RETURNS record
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 SUPPORT predict_internal.call_support AS 'MODULE_PATHNAME', 'pg_predict_prediction_column';

CREATE AGGREGATE @extschema@.predict_batch(model text, VARIADIC "rows" "any") (
    SFUNC = predict_internal.batch_transition, STYPE = internal, SSPACE = 16384,
    FINALFUNC = predict_internal.batch_final, FINALFUNC_MODIFY = READ_WRITE,
    COMBINEFUNC = predict_internal.batch_combine, SERIALFUNC = predict_internal.batch_serialize, DESERIALFUNC = predict_internal.batch_deserialize,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE @extschema@.predict_batch(text, VARIADIC "any") IS
    'score rows with a model, a batch at a time; read the result with predictions() or a cast';
-- The aggregate @extschema@.predict_batch(), where nobody can put one beside it that fits better.
CREATE AGGREGATE predict_internal.batch_of(model text, VARIADIC "rows" "any") (
    SFUNC = predict_internal.batch_transition, STYPE = internal, SSPACE = 16384,
    FINALFUNC = predict_internal.batch_final, FINALFUNC_MODIFY = READ_WRITE,
    COMBINEFUNC = predict_internal.batch_combine, SERIALFUNC = predict_internal.batch_serialize, DESERIALFUNC = predict_internal.batch_deserialize,
    PARALLEL = SAFE
);
-- predict_batch() of groups that share their batches, as the planner replaces it. scored_row() is a row: the model, the aggregate that the
-- user called, and the row. Only the planner can make a call with an argument of type internal. It returns a number, which names the scored
-- row in this session.
CREATE FUNCTION predict_internal.scored_row(model text, aggregate oid, internal, VARIADIC "rows" "any") RETURNS bigint
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'pg_predict_scored_row';
CREATE FUNCTION predict_internal.batch_transition_scored(internal, scored bigint) RETURNS internal
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_batch_transition_scored';
CREATE AGGREGATE predict_internal.batch_of_scored(scored bigint) (
    SFUNC = predict_internal.batch_transition_scored, STYPE = internal, SSPACE = 16384,
    FINALFUNC = predict_internal.batch_final, FINALFUNC_MODIFY = READ_WRITE, PARALLEL = SAFE
);
CREATE FUNCTION predict_internal.batch_transition_handle(internal, text, text[], VARIADIC "any") RETURNS internal
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 SUPPORT predict_internal.call_support AS 'MODULE_PATHNAME', 'pg_predict_batch_transition_handle';
CREATE AGGREGATE predict_internal.predict_batch_handle(model text, columns text[], VARIADIC "rows" "any") (
    SFUNC = predict_internal.batch_transition_handle, STYPE = internal, SSPACE = 16384,
    FINALFUNC = predict_internal.batch_final_handle, FINALFUNC_MODIFY = READ_WRITE,
    COMBINEFUNC = predict_internal.batch_combine, SERIALFUNC = predict_internal.batch_serialize, DESERIALFUNC = predict_internal.batch_deserialize,
    PARALLEL = SAFE
);
-- What the planner makes of a row of a table: the same aggregates over the row's columns, with their names.
CREATE FUNCTION predict_internal.batch_transition_columns(internal, text, text[], VARIADIC "any") RETURNS internal
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 SUPPORT predict_internal.call_support AS 'MODULE_PATHNAME', 'pg_predict_batch_transition_columns';
CREATE AGGREGATE predict_internal.predict_batch_columns(model text, names text[], VARIADIC "values" "any") (
    SFUNC = predict_internal.batch_transition_columns, STYPE = internal, SSPACE = 16384,
    FINALFUNC = predict_internal.batch_final, FINALFUNC_MODIFY = READ_WRITE,
    COMBINEFUNC = predict_internal.batch_combine, SERIALFUNC = predict_internal.batch_serialize, DESERIALFUNC = predict_internal.batch_deserialize,
    PARALLEL = SAFE
);
CREATE FUNCTION predict_internal.batch_transition_columns_handle(internal, text, text[], text[], VARIADIC "any") RETURNS internal
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 SUPPORT predict_internal.call_support AS 'MODULE_PATHNAME', 'pg_predict_batch_transition_columns_handle';
CREATE AGGREGATE predict_internal.predict_batch_columns_handle(model text, columns text[], names text[], VARIADIC "values" "any") (
    SFUNC = predict_internal.batch_transition_columns_handle, STYPE = internal, SSPACE = 16384,
    FINALFUNC = predict_internal.batch_final_handle, FINALFUNC_MODIFY = READ_WRITE,
    COMBINEFUNC = predict_internal.batch_combine, SERIALFUNC = predict_internal.batch_serialize, DESERIALFUNC = predict_internal.batch_deserialize,
    PARALLEL = SAFE
);
