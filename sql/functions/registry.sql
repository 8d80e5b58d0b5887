-- The registry: the views of models, and the functions that create, drop and share them.
--
-- The functions read and write the tables of the registry as their owner, and check the caller themselves.

CREATE VIEW predict.models AS
SELECT v.model AS name,
       v.number AS version,
       ARRAY(SELECT a.alias FROM predict.alias a WHERE (a.model, a.version) = (v.model, v.number) ORDER BY a.alias) AS aliases,
       (SELECT string_agg(p.role::text, ', ' ORDER BY p.role::text)
          FROM predict.privilege p JOIN pg_roles r ON r.oid = p.role WHERE p.model = v.model AND p.privilege = 'owner') AS owner,
       c.bytes,
       encode(v.hash, 'hex') AS sha256,
       CASE WHEN v.options ? 'batch_size' THEN (v.options->>'batch_size')::integer
            WHEN (v.signature->>'batch_sensitive')::boolean AND v.options->>'batch' IS DISTINCT FROM 'force' OR (v.signature->>'whole')::boolean THEN 1
            ELSE (v.signature->>'batch_size')::integer END AS batch_size,
       (v.signature->>'verified')::boolean AS verified,
       v.options,
       v.signature->'metadata' AS metadata,
       v.created_at,
       v.created_by
  FROM predict.version v JOIN predict.content c USING (hash);
COMMENT ON VIEW predict.models IS 'one row a version: its aliases, owner, size in bytes, batch size in rows, options';

CREATE VIEW predict.model_inputs AS
SELECT v.model, v.number AS version, i.position::integer, i.input->>'name' AS name, i.input->>'element' AS type,
       ARRAY(SELECT CASE WHEN d.dim = 'null' THEN -1 ELSE least(d.dim::text::numeric, 2147483647)::integer END
               FROM jsonb_array_elements(i.input->'shape') WITH ORDINALITY AS d(dim, n) ORDER BY d.n) AS row_shape,
       ARRAY(SELECT least(d.dim::numeric, 2147483647)::integer FROM jsonb_array_elements_text(i.input->'declared') WITH ORDINALITY AS d(dim, n) ORDER BY d.n) AS declared_shape
  FROM predict.version v, jsonb_array_elements(v.signature->'inputs') WITH ORDINALITY AS i(input, position);
COMMENT ON VIEW predict.model_inputs IS 'one row an input of a version: element type, shape of one row (-1: open), shape as the file declares it';

CREATE VIEW predict.model_outputs AS
SELECT v.model, v.number AS version, o.position::integer, o.output->>'name' AS name,
       CASE o.output->>'kind' WHEN 'map' THEN format('map(%s, float32)', o.output->>'key')
            WHEN 'nested' THEN o.output->>'of' ELSE o.output->>'element' END AS type,
       CASE WHEN o.output->>'kind' IN ('tensor', 'open')
            THEN ARRAY(SELECT CASE WHEN d.dim = 'null' THEN -1 ELSE least(d.dim::text::numeric, 2147483647)::integer END
                         FROM jsonb_array_elements(o.output->'shape') WITH ORDINALITY AS d(dim, n) ORDER BY d.n) END AS row_shape,
       ARRAY(SELECT least(d.dim::numeric, 2147483647)::integer FROM jsonb_array_elements_text(o.output->'declared') WITH ORDINALITY AS d(dim, n) ORDER BY d.n) AS declared_shape
  FROM predict.version v, jsonb_array_elements(v.signature->'outputs') WITH ORDINALITY AS o(output, position);
COMMENT ON VIEW predict.model_outputs IS 'one row an output of a version: element type, shape of one row as the probe saw it (-1: differs by row), shape as the file declares it';

GRANT SELECT ON predict.models, predict.model_inputs, predict.model_outputs TO PUBLIC;

CREATE FUNCTION predict.create_model(name text, model bytea, options jsonb DEFAULT '{}', tokenizer jsonb DEFAULT NULL, external_data bytea DEFAULT NULL)
    RETURNS integer LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_create_model';
COMMENT ON FUNCTION predict.create_model(text, bytea, jsonb, jsonb, bytea) IS
    'try an ONNX model in a process of its own and store it as a new version; returns the version number';

CREATE FUNCTION predict.create_model_from_file(name text, path text, options jsonb DEFAULT '{}', tokenizer_path text DEFAULT NULL)
    RETURNS integer LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_create_model_from_file';
COMMENT ON FUNCTION predict.create_model_from_file(text, text, jsonb, text) IS
    'as create_model, from files of the server, with the files of weights beside the model; for members of pg_read_server_files';

CREATE FUNCTION predict.drop_model(name text, version integer DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_drop_model';
COMMENT ON FUNCTION predict.drop_model(text, integer) IS 'drop a model, or one version of it that no alias names';

CREATE FUNCTION predict.set_alias(model text, alias text, version integer, force boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_set_alias';
COMMENT ON FUNCTION predict.set_alias(text, text, integer, boolean) IS
    'point an alias at a version that passes the checks of the model; the alias "default" is what a bare model name means';

CREATE FUNCTION predict.drop_alias(model text, alias text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_drop_alias';
COMMENT ON FUNCTION predict.drop_alias(text, text) IS 'drop an alias of a model';

CREATE FUNCTION predict.grant_usage(model text, role text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_grant_usage';
COMMENT ON FUNCTION predict.grant_usage(text, text) IS 'let a role, or PUBLIC, predict with a model';

CREATE FUNCTION predict.revoke_usage(model text, role text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_revoke_usage';
COMMENT ON FUNCTION predict.revoke_usage(text, text) IS 'take the use of a model from a role, or from PUBLIC';

CREATE FUNCTION predict.load_model(model text) RETURNS double precision
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'pg_predict_load_model';
COMMENT ON FUNCTION predict.load_model(text) IS
    'load a model in this session before it is needed; returns the milliseconds that it took, 0 where it was loaded';

CREATE FUNCTION predict.describe(model text) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_describe';
COMMENT ON FUNCTION predict.describe(text) IS 'what a model takes and gives, and a call of it in SQL that runs as it stands';

-- The number of the version that a reference means in this query.
CREATE FUNCTION predict.version_of(model text) RETURNS integer
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_version_of';
COMMENT ON FUNCTION predict.version_of(text) IS 'the number of the version that a model reference means';

CREATE FUNCTION predict.model_of(reference text) RETURNS text IMMUTABLE STRICT PARALLEL SAFE
    RETURN split_part(split_part(reference, '/', 1), '@', 1);
COMMENT ON FUNCTION predict.model_of(text) IS 'the name of the model in a model reference';

-- Whether the caller owns a model, or may use it. No error for a model that is not there.
CREATE FUNCTION predict.owns_model(name text) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_owns_model';
COMMENT ON FUNCTION predict.owns_model(text) IS 'whether the caller is an owner of the model, or a superuser';
CREATE FUNCTION predict.may_use_model(name text) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_may_use_model';
COMMENT ON FUNCTION predict.may_use_model(text) IS 'whether the caller may predict with the model';

REVOKE EXECUTE ON FUNCTION
    predict.create_model(text, bytea, jsonb, jsonb, bytea), predict.create_model_from_file(text, text, jsonb, text),
    predict.drop_model(text, integer), predict.set_alias(text, text, integer, boolean), predict.drop_alias(text, text),
    predict.grant_usage(text, text), predict.revoke_usage(text, text) FROM PUBLIC;
