-- The plain calls: one value a row, named by what they return.

CREATE FUNCTION @extschema@.predict(model text, VARIADIC features "any") RETURNS float8
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 SUPPORT predict_internal.call_support AS 'MODULE_PATHNAME', 'pg_predict_predict';
COMMENT ON FUNCTION @extschema@.predict(text, VARIADIC "any") IS 'one number that a model predicts for one row';

CREATE FUNCTION @extschema@.predict_text(model text, VARIADIC features "any") RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 SUPPORT predict_internal.call_support AS 'MODULE_PATHNAME', 'pg_predict_predict_text';
COMMENT ON FUNCTION @extschema@.predict_text(text, VARIADIC "any") IS 'one value that a model predicts for one row, as text';

CREATE FUNCTION @extschema@.predict_array(model text, VARIADIC features "any") RETURNS real[]
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 SUPPORT predict_internal.call_support AS 'MODULE_PATHNAME', 'pg_predict_predict_array';
COMMENT ON FUNCTION @extschema@.predict_array(text, VARIADIC "any") IS 'an output of a model for one row, as real[]';

CREATE FUNCTION @extschema@.predict_json(model text, VARIADIC features "any") RETURNS jsonb
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 SUPPORT predict_internal.call_support AS 'MODULE_PATHNAME', 'pg_predict_predict_json';
COMMENT ON FUNCTION @extschema@.predict_json(text, VARIADIC "any") IS 'all outputs of a model for one row, by name';

CREATE FUNCTION @extschema@.embed(model text, document text) RETURNS real[]
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 SUPPORT predict_internal.call_support AS 'MODULE_PATHNAME', 'pg_predict_embed';
COMMENT ON FUNCTION @extschema@.embed(text, text) IS 'the vector that a model makes of one text';
