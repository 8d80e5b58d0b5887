-- Versions that can be trusted: golden rows kept with a model, comparisons of two versions, and who did what to a model.
--
-- A model's owner sees and changes what is kept of it; row level security sees to that, so these functions run with their
-- caller's rights alone.

-- The number of the version that a reference means in this query.
CREATE FUNCTION predict.version_of(model text) RETURNS integer
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_version_of';
COMMENT ON FUNCTION predict.version_of(text) IS 'the number of the version that a model reference means';

CREATE FUNCTION predict.model_of(reference text) RETURNS text IMMUTABLE STRICT PARALLEL SAFE
    RETURN split_part(split_part(reference, '/', 1), '@', 1);
COMMENT ON FUNCTION predict.model_of(text) IS 'the name of the model in a model reference';

CREATE FUNCTION predict.runtime() RETURNS text
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'pg_predict_runtime';
COMMENT ON FUNCTION predict.runtime() IS 'what the ONNX Runtime library that this backend uses says of its build';

CREATE FUNCTION predict.difference(expected jsonb, answer jsonb) RETURNS float8
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_difference';
COMMENT ON FUNCTION predict.difference(jsonb, jsonb) IS
    'the largest |a - b| / max(1, |a|) of the numbers in two answers, Infinity where they differ in anything else';

CREATE FUNCTION predict.chi_squared_sf(statistic float8, degrees_of_freedom float8) RETURNS float8
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_chi_squared_sf';
COMMENT ON FUNCTION predict.chi_squared_sf(float8, float8) IS 'the probability that a chi-squared variable is larger';
CREATE FUNCTION predict.kolmogorov_sf(x float8) RETURNS float8
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_kolmogorov_sf';
COMMENT ON FUNCTION predict.kolmogorov_sf(float8) IS 'the probability that a variable of Kolmogorov''s distribution is larger';

-- Golden rows. `columns` are those of a row, each with its type; the rows themselves are JSON, which holds each value exactly.
CREATE TABLE predict.check_set (
    model       text         COLLATE "C" NOT NULL,
    name        text         COLLATE "C" NOT NULL CHECK (name <> ''),
    columns     jsonb        NOT NULL,
    tolerance   float8       NOT NULL CHECK (tolerance >= 0),
    query       text         NOT NULL,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    created_by  name         NOT NULL DEFAULT current_user,
    PRIMARY KEY (model, name)
);
CREATE TABLE predict.check_row (
    model     text     COLLATE "C" NOT NULL,
    name      text     COLLATE "C" NOT NULL,
    position  integer  NOT NULL,
    input     jsonb    NOT NULL,
    expected  jsonb    NOT NULL,
    PRIMARY KEY (model, name, position)
);
CREATE TABLE predict.check_result (
    model    text         COLLATE "C" NOT NULL,
    version  integer      NOT NULL,
    name     text         COLLATE "C" NOT NULL,
    passed   boolean      NOT NULL,
    rows     integer      NOT NULL,
    failed   integer      NOT NULL,
    worst    float8,
    runtime  text         NOT NULL,
    at       timestamptz  NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (model, version, name)
);

-- What was done to models. Written by the registry's functions alone.
CREATE TABLE predict.event (
    id       bigint       GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz  NOT NULL DEFAULT clock_timestamp(),
    role     name         NOT NULL,
    model    text         COLLATE "C" NOT NULL,
    action   text         NOT NULL,
    version  integer,
    alias    text,
    detail   text
);

SELECT pg_catalog.pg_extension_config_dump('predict.check_set', '');
SELECT pg_catalog.pg_extension_config_dump('predict.check_row', '');
SELECT pg_catalog.pg_extension_config_dump('predict.check_result', '');
SELECT pg_catalog.pg_extension_config_dump('predict.event', '');
SELECT pg_catalog.pg_extension_config_dump('predict.event_id_seq', '');

ALTER TABLE predict.check_set ENABLE ROW LEVEL SECURITY;
ALTER TABLE predict.check_row ENABLE ROW LEVEL SECURITY;
ALTER TABLE predict.check_result ENABLE ROW LEVEL SECURITY;
ALTER TABLE predict.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY owner ON predict.check_set USING (predict.owns_model(model)) WITH CHECK (predict.owns_model(model));
CREATE POLICY owner ON predict.check_row USING (predict.owns_model(model)) WITH CHECK (predict.owns_model(model));
CREATE POLICY owner ON predict.check_result USING (predict.owns_model(model)) WITH CHECK (predict.owns_model(model));
CREATE POLICY owner ON predict.event FOR SELECT USING (role = current_user OR predict.owns_model(model));
GRANT SELECT, INSERT, UPDATE, DELETE ON predict.check_set, predict.check_row, predict.check_result TO PUBLIC;
GRANT SELECT ON predict.event TO PUBLIC;

CREATE VIEW predict.checks WITH (security_invoker = true) AS
SELECT s.model, s.name, (SELECT count(*) FROM predict.check_row r WHERE (r.model, r.name) = (s.model, s.name)) AS rows,
       s.tolerance, s.query, s.created_at, s.created_by
  FROM predict.check_set s;
COMMENT ON VIEW predict.checks IS 'one row a check: golden rows that every version of a model must answer as expected';

CREATE VIEW predict.check_results WITH (security_invoker = true) AS
SELECT r.model, r.version, r.name, r.passed, r.rows, r.failed, r.worst, r.runtime, r.at FROM predict.check_result r;
COMMENT ON VIEW predict.check_results IS 'one row a check and version: how it went when it was last run, and with which ONNX Runtime';

CREATE VIEW predict.history WITH (security_invoker = true) AS
SELECT e.at, e.role, e.model, e.action, e.version, e.alias, e.detail, e.id FROM predict.event e;
COMMENT ON VIEW predict.history IS 'who created, promoted, granted or dropped what, and when: of the models that the caller owns, and what the caller did';

GRANT SELECT ON predict.checks, predict.check_results, predict.history TO PUBLIC;

-- Raises 42704 where there is no such model, 42501 where the caller does not own it.
CREATE FUNCTION predict.must_own(model text, verb text) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM predict.models m WHERE m.name = must_own.model) THEN
        RAISE undefined_object USING MESSAGE = format('model "%s" does not exist', model),
            HINT = 'The view predict.models lists the models.';
    END IF;
    IF NOT predict.owns_model(model) THEN
        RAISE insufficient_privilege USING MESSAGE = format('permission denied for model "%s"', model),
            DETAIL = format('Only its owner may %s it.', verb);
    END IF;
END $$;

-- The columns of a relation: their names and types, in order, the types by names that hold under any search path.
CREATE FUNCTION predict.columns_of(relation regclass) RETURNS jsonb LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum), '[]')
      FROM pg_catalog.pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- A type of which values can be read without running anybody's code: base types, which only superusers make, and enums; a domain
-- is what it is over, and anything else (composites, ranges, arrays of such) is text.
CREATE FUNCTION predict.plain_type(name text) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    WITH RECURSIVE over AS (SELECT t.* FROM pg_type t WHERE t.oid = name::regtype
                            UNION ALL SELECT b.* FROM over o JOIN pg_type b ON b.oid = o.typbasetype WHERE o.typtype = 'd')
    SELECT coalesce((SELECT format_type(o.oid, NULL) FROM over o LEFT JOIN pg_type e ON e.oid = o.typelem
                      WHERE o.typtype IN ('b', 'e') AND (e.oid IS NULL OR e.typtype IN ('b', 'e'))), 'text')
$$;

-- A column definition list of columns. What the owner of a model wrote down is read by others who run its checks, superusers
-- among them: it names types and nothing else.
CREATE FUNCTION predict.definition_of(columns jsonb) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT string_agg(format('%I %s', c->>'name', predict.plain_type(c->>'type')), ', ' ORDER BY n) FROM jsonb_array_elements(columns) WITH ORDINALITY e(c, n)
$$;

CREATE FUNCTION predict.add_checks(model text, query text, name text DEFAULT 'default', tolerance float8 DEFAULT 1e-4)
    RETURNS integer LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    of_model text := predict.model_of(model);
    columns jsonb;
    outputs text[];
    rows integer;
BEGIN
    IF model IS NULL OR query IS NULL OR name IS NULL OR tolerance IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'no argument of predict.add_checks() may be NULL';
    END IF;
    PERFORM predict.must_own(of_model, 'check');
    IF tolerance < 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the tolerance of a check must not be negative';
    END IF;
    EXECUTE 'CREATE TEMP TABLE predict_golden ON COMMIT DROP AS ' || query;
    columns := predict.columns_of('pg_temp.predict_golden');
    -- Columns called like outputs are what is expected; without any, what the version says now.
    outputs := ARRAY(SELECT o.name FROM predict.model_outputs o, jsonb_array_elements(columns) c
                      WHERE o.model = of_model AND o.version = predict.version_of(model) AND o.name = c->>'name');
    DELETE FROM predict.check_row r WHERE r.model = of_model AND r.name = name;
    DELETE FROM predict.check_result r WHERE r.model = of_model AND r.name = name;
    INSERT INTO predict.check_set AS s (model, name, columns, tolerance, query)
    VALUES (of_model, name, (SELECT coalesce(jsonb_agg(c), '[]') FROM jsonb_array_elements(columns) c WHERE c->>'name' <> ALL (outputs)), tolerance, query)
    ON CONFLICT ON CONSTRAINT check_set_pkey DO UPDATE
        SET (columns, tolerance, query, created_at, created_by) = (excluded.columns, excluded.tolerance, excluded.query, now(), current_user);
    EXECUTE format(
        'INSERT INTO predict.check_row (model, name, position, input, expected)
         SELECT $1, $2, row_number() OVER (), to_jsonb(predict_row) - $3, %s FROM pg_temp.predict_golden predict_row',
        CASE WHEN outputs = '{}' THEN 'coalesce(@extschema@.predict_json($4, predict_row), ''null'')'
             ELSE '(SELECT jsonb_object_agg(e.key, e.value) FROM jsonb_each(to_jsonb(predict_row)) e WHERE e.key = ANY ($3))' END)
        USING of_model, name, outputs, model;
    GET DIAGNOSTICS rows = ROW_COUNT;
    DROP TABLE pg_temp.predict_golden;
    IF rows = 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the query of a check gives no rows', HINT = 'Golden rows are what a version is judged by.';
    END IF;
    RETURN rows;
END $$;
COMMENT ON FUNCTION predict.add_checks(text, text, text, float8) IS
    'keep the rows of a query with a model, as what its versions must answer; columns called like outputs are expected, else what the version says now; returns how many';

CREATE FUNCTION predict.drop_checks(model text, name text DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    PERFORM predict.must_own(model, 'check');
    DELETE FROM predict.check_row r WHERE r.model = model AND (name IS NULL OR r.name = name);
    DELETE FROM predict.check_result r WHERE r.model = model AND (name IS NULL OR r.name = name);
    DELETE FROM predict.check_set s WHERE s.model = model AND (name IS NULL OR s.name = name);
    IF NOT FOUND THEN
        RAISE undefined_object USING MESSAGE = format('model "%s" has no check%s', model, coalesce(format(' "%s"', name), '')),
            HINT = 'The view predict.checks lists the checks.';
    END IF;
END $$;
COMMENT ON FUNCTION predict.drop_checks(text, text) IS 'drop a check of a model, or all';

CREATE FUNCTION predict.check(model text DEFAULT NULL)
    RETURNS TABLE (model_name text, version integer, name text, rows integer, failed integer, worst float8, passed boolean, first_failure jsonb)
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    of_model text := predict.model_of(model);
    reference text;
    current_runtime text := predict.runtime();
    s record;
BEGIN
    IF model IS NOT NULL THEN
        PERFORM predict.must_own(of_model, 'check');
    END IF;
    FOR s IN SELECT c.*, v.number FROM predict.check_set c
               JOIN LATERAL (SELECT predict.version_of(model) AS number WHERE model IS NOT NULL
                             UNION ALL
                             SELECT m.version FROM predict.models m WHERE model IS NULL AND m.name = c.model AND m.aliases <> '{}') v ON true
              WHERE c.model = coalesce(of_model, c.model) ORDER BY c.model, v.number, c.name
    LOOP
        reference := format('%s@%s', s.model, s.number);
        EXECUTE format(
            'WITH answer AS MATERIALIZED (SELECT r.position, r.input, r.expected, @extschema@.predict_json($1, predict_row) AS got
               FROM predict.check_row r, LATERAL jsonb_to_record(r.input) AS predict_row(%s) WHERE r.model = $2 AND r.name = $3 OFFSET 0),
             judged AS (SELECT position, input, expected, got,
                        CASE jsonb_typeof(expected) WHEN ''object'' THEN (SELECT max(predict.difference(e.value, CASE jsonb_typeof(got) WHEN ''object'' THEN got -> e.key END)) FROM jsonb_each(expected) e) ELSE predict.difference(expected, got) END AS d FROM answer)
             SELECT count(*), count(*) FILTER (WHERE d > $4), max(d),
                    (array_agg(jsonb_build_object(''position'', position, ''input'', input, ''expected'', expected, ''got'', got, ''difference'', d::text) ORDER BY position) FILTER (WHERE d > $4))[1]
               FROM judged', predict.definition_of(s.columns))
            INTO rows, failed, worst, first_failure USING reference, s.model, s.name, s.tolerance;
        model_name := s.model;
        version := s.number;
        name := s.name;
        passed := failed = 0;
        IF NOT pg_is_in_recovery() AND NOT current_setting('transaction_read_only')::boolean THEN
            INSERT INTO predict.check_result AS r (model, version, name, passed, rows, failed, worst, runtime)
            VALUES (s.model, s.number, s.name, failed = 0, rows, failed, worst, current_runtime)
            ON CONFLICT ON CONSTRAINT check_result_pkey DO UPDATE
                SET (passed, rows, failed, worst, runtime, at) = (excluded.passed, excluded.rows, excluded.failed, excluded.worst, excluded.runtime, excluded.at);
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION predict.check(text) IS
    'run the checks of a model on the version that a reference means, or those of all models of the caller on the versions that have an alias';

CREATE FUNCTION predict.compare(model_a text, model_b text, query text, tolerance float8 DEFAULT 1e-4)
    RETURNS TABLE (output text, rows bigint, agreement float8, mean_difference float8, median_difference float8, p90_difference float8,
                   p99_difference float8, max_difference float8, worst jsonb)
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    -- Each output of a, and what b calls it: the same, or else what stands in its place.
    pairs jsonb := (SELECT jsonb_object_agg(a.name, coalesce((SELECT b.name FROM predict.model_outputs b WHERE b.model = predict.model_of(model_b)
                                                                  AND b.version = predict.version_of(model_b) AND (b.name = a.name OR b.position = a.position)
                                                                ORDER BY b.name = a.name DESC LIMIT 1), a.name))
                      FROM predict.model_outputs a WHERE a.model = predict.model_of(model_a) AND a.version = predict.version_of(model_a));
BEGIN
    IF model_a IS NULL OR model_b IS NULL OR query IS NULL OR tolerance IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'no argument of predict.compare() may be NULL';
    END IF;
    EXECUTE 'CREATE TEMP TABLE predict_compared ON COMMIT DROP AS ' || query;
    RETURN QUERY EXECUTE
        'WITH answer AS MATERIALIZED (SELECT to_jsonb(predict_row) AS row, @extschema@.predict_json($1, predict_row) AS a, @extschema@.predict_json($2, predict_row) AS b
                                        FROM pg_temp.predict_compared predict_row OFFSET 0),
              line AS (SELECT row, o.key AS output, a -> o.key AS a, b -> o.value AS b, predict.difference(a -> o.key, b -> o.value) AS d
                         FROM answer, jsonb_each_text($4) o WHERE a IS NOT NULL OR b IS NOT NULL)
         SELECT l.output, count(*), avg((l.d <= $3)::integer)::float8, avg(l.d) FILTER (WHERE l.d < ''Infinity''),
                percentile_disc(0.5) WITHIN GROUP (ORDER BY l.d), percentile_disc(0.9) WITHIN GROUP (ORDER BY l.d),
                percentile_disc(0.99) WITHIN GROUP (ORDER BY l.d), max(l.d),
                (SELECT jsonb_agg(jsonb_build_object(''row'', w.row, ''a'', w.a, ''b'', w.b, ''difference'', w.d::text) ORDER BY w.d DESC)
                   FROM (SELECT * FROM line w WHERE w.output = l.output AND w.d > $3 ORDER BY w.d DESC LIMIT 5) w)
           FROM line l GROUP BY l.output ORDER BY l.output'
        USING model_a, model_b, tolerance, pairs;
    DROP TABLE pg_temp.predict_compared;
END $$;
COMMENT ON FUNCTION predict.compare(text, text, text, float8) IS
    'how two versions answer the rows of a query: agreement, differences |a - b| / max(1, |a|), and the five rows that disagree most, for each output';

REVOKE EXECUTE ON FUNCTION predict.add_checks(text, text, text, float8), predict.drop_checks(text, text) FROM PUBLIC;
