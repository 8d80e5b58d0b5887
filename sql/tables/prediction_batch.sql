-- The types of scored rows: prediction_batch, and the handle that stands for one inside a query.

CREATE TYPE @extschema@.prediction_batch;
CREATE FUNCTION predict_internal.prediction_batch_in(cstring) RETURNS @extschema@.prediction_batch
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_batch_in';
CREATE FUNCTION predict_internal.prediction_batch_out(@extschema@.prediction_batch) RETURNS cstring
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_batch_out';
CREATE FUNCTION predict_internal.prediction_batch_recv(internal) RETURNS @extschema@.prediction_batch
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_batch_recv';
CREATE FUNCTION predict_internal.prediction_batch_send(@extschema@.prediction_batch) RETURNS bytea
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_batch_send';
CREATE TYPE @extschema@.prediction_batch (
    INPUT = predict_internal.prediction_batch_in, OUTPUT = predict_internal.prediction_batch_out,
    RECEIVE = predict_internal.prediction_batch_recv, SEND = predict_internal.prediction_batch_send,
    INTERNALLENGTH = VARIABLE, ALIGNMENT = double, STORAGE = extended
);
COMMENT ON TYPE @extschema@.prediction_batch IS 'scored rows: what the model did not take of each row, and its outputs; text form: JSON';

-- A number that stands for a result while its query runs: what predictions((SELECT predict_batch(..) ..)) is planned
-- as, so that the result need not be copied into one datum. It has no text form.
CREATE TYPE predict_internal.batch_handle;
CREATE FUNCTION predict_internal.batch_handle_in(cstring) RETURNS predict_internal.batch_handle
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_handle_in';
CREATE FUNCTION predict_internal.batch_handle_out(predict_internal.batch_handle) RETURNS cstring
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_handle_out';
CREATE TYPE predict_internal.batch_handle (
    INPUT = predict_internal.batch_handle_in, OUTPUT = predict_internal.batch_handle_out,
    INTERNALLENGTH = 8, PASSEDBYVALUE, ALIGNMENT = double
);
