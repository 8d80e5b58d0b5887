-- Versions that can be trusted: golden rows kept with a model, comparisons of two versions, and who did what to a model.
--
-- A model's owner sees what is kept of it; row level security sees to that, so these functions run with their caller's rights
-- alone. What they write is written on the caller's behalf, by the functions put_.. and forget_.., which check that he or she
-- owns the model (src/api/behalf.rs): nobody has a right to change a table, and so nobody can lock one.
--
-- The caller's query runs under the caller's search_path, and nothing else does: what everybody calls takes note of that path and
-- hands it on, by qualified names alone, to a function that sets its own.

CREATE FUNCTION predict.runtime() RETURNS text
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'pg_predict_runtime';
COMMENT ON FUNCTION predict.runtime() IS 'what the ONNX Runtime library that this backend uses says of its build';

CREATE FUNCTION predict_internal.difference(expected jsonb, answer jsonb) RETURNS float8
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_difference';
COMMENT ON FUNCTION predict_internal.difference(jsonb, jsonb) IS
    'the largest |a - b| / max(1, |a|) of the numbers in two answers, Infinity where they differ in anything else';

CREATE FUNCTION predict_internal.chi_squared_sf(statistic float8, degrees_of_freedom float8) RETURNS float8
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_chi_squared_sf';
COMMENT ON FUNCTION predict_internal.chi_squared_sf(float8, float8) IS 'the probability that a chi-squared variable is larger';
CREATE FUNCTION predict_internal.kolmogorov_sf(x float8) RETURNS float8
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_kolmogorov_sf';
COMMENT ON FUNCTION predict_internal.kolmogorov_sf(float8) IS 'the probability that a variable of Kolmogorov''s distribution is larger';

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

-- Texts as SQL that is printed to be copied: in quotes, and in one line, so that what a name contains never begins a statement.
-- Control characters, and those that turn the direction of what is read, are escaped. printable_of() does that alone, for messages.
CREATE FUNCTION predict_internal.literal_of(value text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_literal_of';
CREATE FUNCTION predict_internal.printable_of(value text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_printable_of';
CREATE FUNCTION predict_internal.name_of(value text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_name_of';

-- Whether a text is not to name a check or a job.
CREATE FUNCTION predict_internal.is_bad_name(value text) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT value = '' OR value ~ '[\u0001-\u001f\u007f-\u009f\u2028\u2029]'
$$;

-- Raises 42704 where there is no such model, 42501 where the caller does not own it.
CREATE FUNCTION predict_internal.must_own(model text, verb text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
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
CREATE FUNCTION predict_internal.columns_of(relation regclass) RETURNS jsonb LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum), '[]')
      FROM pg_catalog.pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- A type of which values can be read without running anybody's code: base types, which only superusers make, and enums; a domain
-- is what it is over, and anything else (composites, ranges, arrays of such) is text.
CREATE FUNCTION predict_internal.plain_type(name text) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE over AS (SELECT t.* FROM pg_type t WHERE t.oid = name::regtype
                            UNION ALL SELECT b.* FROM over o JOIN pg_type b ON b.oid = o.typbasetype WHERE o.typtype = 'd')
    SELECT coalesce((SELECT format_type(o.oid, NULL) FROM over o LEFT JOIN pg_type e ON e.oid = o.typelem
                      WHERE o.typtype IN ('b', 'e') AND (e.oid IS NULL OR e.typtype IN ('b', 'e'))), 'text')
$$;

-- A column definition list of columns. What the owner of a model wrote down is read by others who run its checks, superusers
-- among them: it names types and nothing else.
CREATE FUNCTION predict_internal.definition_of(columns jsonb) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('%I %s', c->>'name', predict_internal.plain_type(c->>'type')), ', ' ORDER BY n) FROM jsonb_array_elements(columns) WITH ORDINALITY e(c, n)
$$;

-- The same call as @extschema@.predict_json(), where nobody can put one beside it that fits better.
CREATE FUNCTION predict_internal.json_of(model text, VARIADIC features "any") RETURNS jsonb
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 SUPPORT predict_internal.call_support AS 'MODULE_PATHNAME', 'pg_predict_predict_json';

-- Runs a statement under somebody's search_path; gives its rows, which are those that it touched.
CREATE FUNCTION predict_internal.execute_under(path text, statement text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rows bigint;
BEGIN
    PERFORM set_config('search_path', path, true);
    EXECUTE statement;
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN rows;
END $$;

-- The same of a statement that gives one value, of type jsonb.
CREATE FUNCTION predict_internal.answer_under(path text, statement text) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer jsonb;
BEGIN
    PERFORM set_config('search_path', path, true);
    EXECUTE statement INTO answer;
    RETURN answer;
END $$;

-- Whether a role owns a model, as predict.owns_model() says it of the caller. What is written on a caller's behalf asks it.
CREATE FUNCTION predict_internal.owns_model(caller oid, model text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM predict.privilege p WHERE p.model = owns_model.model AND p.privilege = 'owner' AND pg_has_role(caller, p.role::oid, 'USAGE'))
        OR EXISTS (SELECT FROM pg_roles r WHERE r.oid = caller AND r.rolsuper)
$$;

CREATE FUNCTION predict_internal.must_own(caller oid, model text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT predict_internal.owns_model(caller, model) THEN
        RAISE insufficient_privilege USING MESSAGE = format('permission denied for model "%s"', model);
    END IF;
END $$;

-- Keeps golden rows, each as an array of what goes in and what is expected, in the place of the check's old ones. Gives how many.
CREATE FUNCTION predict_internal.put_checks(model text, name text, columns jsonb, tolerance float8, query text, golden jsonb) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.put_checks(caller oid, model text, name text, columns jsonb, tolerance float8, query text, golden jsonb) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    rows bigint;
BEGIN
    PERFORM predict_internal.must_own(caller, model);
    DELETE FROM predict.check_row r WHERE r.model = model AND r.name = name;
    DELETE FROM predict.check_result r WHERE r.model = model AND r.name = name;
    INSERT INTO predict.check_set AS s (model, name, columns, tolerance, query, created_by)
    VALUES (model, name, columns, tolerance, query, pg_get_userbyid(caller))
    ON CONFLICT ON CONSTRAINT check_set_pkey DO UPDATE
        SET (columns, tolerance, query, created_at, created_by) = (excluded.columns, excluded.tolerance, excluded.query, now(), excluded.created_by);
    INSERT INTO predict.check_row (model, name, position, input, expected)
    SELECT model, name, g.n, g.line->0, g.line->1 FROM jsonb_array_elements(golden) WITH ORDINALITY g(line, n);
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN rows;
END $$;

-- Drops a check of a model, or all; gives how many there were.
CREATE FUNCTION predict_internal.forget_checks(model text, name text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.forget_checks(caller oid, model text, name text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    rows bigint;
BEGIN
    PERFORM predict_internal.must_own(caller, model);
    DELETE FROM predict.check_row r WHERE r.model = model AND (name IS NULL OR r.name = name);
    DELETE FROM predict.check_result r WHERE r.model = model AND (name IS NULL OR r.name = name);
    DELETE FROM predict.check_set s WHERE s.model = model AND (name IS NULL OR s.name = name);
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN rows;
END $$;

-- Keeps how a check went.
CREATE FUNCTION predict_internal.put_check_result(model text, version integer, name text, rows integer, failed integer, worst float8, runtime text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.put_check_result(caller oid, model text, version integer, name text, rows integer, failed integer, worst float8, runtime text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    PERFORM predict_internal.must_own(caller, model);
    INSERT INTO predict.check_result AS r (model, version, name, passed, rows, failed, worst, runtime)
    VALUES (model, version, name, failed = 0, rows, failed, worst, runtime)
    ON CONFLICT ON CONSTRAINT check_result_pkey DO UPDATE
        SET (passed, rows, failed, worst, runtime, at) = (excluded.passed, excluded.rows, excluded.failed, excluded.worst, excluded.runtime, excluded.at);
    RETURN 1;
END $$;

CREATE FUNCTION predict_internal.add_checks_under(path text, model text, query text, name text, tolerance float8) RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    of_model text := predict.model_of(model);
    columns jsonb;
    outputs text[];
    golden jsonb;
BEGIN
    IF model IS NULL OR query IS NULL OR name IS NULL OR tolerance IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'no argument of predict.add_checks() may be NULL';
    END IF;
    PERFORM predict_internal.must_own(of_model, 'check');
    IF tolerance < 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the tolerance of a check must not be negative';
    END IF;
    IF predict_internal.is_bad_name(name) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s cannot name a check: it is empty or contains a control character', predict_internal.literal_of(name));
    END IF;
    PERFORM predict_internal.execute_under(path, 'CREATE TEMPORARY TABLE predict_golden ON COMMIT DROP AS ' || query);
    columns := predict_internal.columns_of('pg_temp.predict_golden');
    -- Columns called like outputs are what is expected; without any, what the version says now.
    outputs := ARRAY(SELECT o.name FROM predict.model_outputs o, jsonb_array_elements(columns) c
                      WHERE o.model = of_model AND o.version = predict.version_of(model) AND o.name = c->>'name');
    EXECUTE format('SELECT jsonb_agg(jsonb_build_array(to_jsonb(predict_row) - $1, %s)) FROM pg_temp.predict_golden predict_row',
        CASE WHEN outputs = '{}' THEN 'coalesce(predict_internal.json_of($2, predict_row), ''null'')'
             ELSE '(SELECT jsonb_object_agg(e.key, e.value) FROM jsonb_each(to_jsonb(predict_row)) e WHERE e.key = ANY ($1))' END)
        INTO golden USING outputs, model;
    DROP TABLE pg_temp.predict_golden;
    IF golden IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'the query of a check gives no rows', HINT = 'Golden rows are what a version is judged by.';
    END IF;
    RETURN predict_internal.put_checks(of_model, name, (SELECT coalesce(jsonb_agg(c), '[]') FROM jsonb_array_elements(columns) c WHERE c->>'name' <> ALL (outputs)),
                              tolerance, query, golden);
END $$;

CREATE FUNCTION predict.add_checks(model text, query text, name text DEFAULT 'default', tolerance float8 DEFAULT 1e-4)
    RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    RETURN predict_internal.add_checks_under(pg_catalog.current_setting('search_path'), model, query, name, tolerance);
END $$;
COMMENT ON FUNCTION predict.add_checks(text, text, text, float8) IS
    'keep the rows of a query with a model, as what its versions must answer; columns called like outputs are expected, else what the version says now; returns how many';

CREATE FUNCTION predict.drop_checks(model text, name text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM predict_internal.must_own(model, 'check');
    IF predict_internal.forget_checks(model, name) = 0 THEN
        RAISE undefined_object USING MESSAGE = format('model "%s" has no check%s', model, coalesce(format(' "%s"', name), '')),
            HINT = 'The view predict.checks lists the checks.';
    END IF;
END $$;
COMMENT ON FUNCTION predict.drop_checks(text, text) IS 'drop a check of a model, or all';

CREATE FUNCTION predict.check(model text DEFAULT NULL)
    RETURNS TABLE (model_name text, version integer, name text, rows integer, failed integer, worst float8, passed boolean, first_failure jsonb,
                   worst_failure jsonb)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    of_model text := predict.model_of(model);
    reference text;
    current_runtime text := predict.runtime();
    s record;
BEGIN
    IF model IS NOT NULL THEN
        PERFORM predict_internal.must_own(of_model, 'check');
    ELSE
        -- Somebody may hold on to a result.
        PERFORM set_config('lock_timeout', '1s', true);
    END IF;
    FOR s IN SELECT c.*, v.number FROM predict.check_set c
               JOIN LATERAL (SELECT predict.version_of(model) AS number WHERE model IS NOT NULL
                             UNION ALL
                             SELECT m.version FROM predict.models m WHERE model IS NULL AND m.name = c.model AND m.aliases <> '{}') v ON true
              WHERE c.model = coalesce(of_model, c.model) ORDER BY c.model, v.number, c.name
    LOOP
        reference := format('%s@%s', s.model, s.number);
        BEGIN
            EXECUTE format(
                'WITH answer AS MATERIALIZED (SELECT r.position, r.input, r.expected, predict_internal.json_of($1, predict_row) AS got
                   FROM predict.check_row r, LATERAL jsonb_to_record(r.input) AS predict_row(%s) WHERE r.model = $2 AND r.name = $3 OFFSET 0),
                 judged AS (SELECT position, input, expected, got,
                            CASE jsonb_typeof(expected) WHEN ''object'' THEN (SELECT max(predict_internal.difference(e.value, CASE jsonb_typeof(got) WHEN ''object'' THEN got -> e.key END)) FROM jsonb_each(expected) e) ELSE predict_internal.difference(expected, got) END AS d FROM answer),
                 failure AS (SELECT position, d, jsonb_build_object(''position'', position, ''input'', input, ''expected'', expected, ''got'', got, ''difference'', d::text) AS line
                               FROM judged WHERE d > $4)
                 SELECT count(*), count(*) FILTER (WHERE d > $4), max(d), (SELECT line FROM failure ORDER BY position LIMIT 1),
                        (SELECT line FROM failure ORDER BY d DESC, position LIMIT 1)
                   FROM judged', predict_internal.definition_of(s.columns))
                INTO rows, failed, worst, first_failure, worst_failure USING reference, s.model, s.name, s.tolerance;
            IF NOT pg_is_in_recovery() AND NOT current_setting('transaction_read_only')::boolean THEN
                PERFORM predict_internal.put_check_result(s.model, s.number, s.name, rows, failed, worst, current_runtime);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            -- Of all models, one that cannot be checked must not keep the others from it.
            IF model IS NOT NULL THEN
                RAISE;
            END IF;
            rows := (SELECT count(*) FROM predict.check_row r WHERE (r.model, r.name) = (s.model, s.name));
            failed := greatest(rows, 1);
            worst := 'Infinity';
            first_failure := jsonb_build_object('error', SQLERRM);
            worst_failure := first_failure;
            IF SQLSTATE <> '55P03' AND NOT pg_is_in_recovery() AND NOT current_setting('transaction_read_only')::boolean THEN
                PERFORM predict_internal.put_check_result(s.model, s.number, s.name, rows, failed, worst, current_runtime);
            END IF;
            RAISE WARNING USING MESSAGE = format('check "%s" of model "%s" could not be run', s.name, reference), DETAIL = SQLERRM;
        END;
        model_name := s.model;
        version := s.number;
        name := s.name;
        passed := failed = 0;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION predict.check(text) IS
    'run the checks of a model on the version that a reference means, or those of all models of the caller on the versions that have an alias';

-- The checks that a version fails, each as a sentence.
CREATE FUNCTION predict_internal.check_failures(model text) RETURNS SETOF text
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('Check "%s": %s of %s rows are beyond the tolerance of %s; row %s differs most, %s.', c.name, c.failed, c.rows, s.tolerance,
                  c.worst_failure->>'position', CASE WHEN c.worst < 'Infinity' THEN format('by %s', c.worst::real) ELSE 'in a text, a NULL or its shape' END)
      FROM predict.check(check_failures.model) c JOIN predict.check_set s ON s.model = c.model_name AND s.name = c.name
     WHERE NOT c.passed ORDER BY c.name
$$;

CREATE FUNCTION predict_internal.compare_under(path text, model_a text, model_b text, query text, tolerance float8)
    RETURNS TABLE (output text, rows bigint, agreement float8, mean_difference float8, median_difference float8, p90_difference float8,
                   p99_difference float8, max_difference float8, worst jsonb)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
    PERFORM predict_internal.execute_under(path, 'CREATE TEMPORARY TABLE predict_compared ON COMMIT DROP AS ' || query);
    RETURN QUERY EXECUTE
        'WITH answer AS MATERIALIZED (SELECT to_jsonb(predict_row) AS row, predict_internal.json_of($1, predict_row) AS a, predict_internal.json_of($2, predict_row) AS b
                                        FROM pg_temp.predict_compared predict_row OFFSET 0),
              line AS (SELECT row, o.key AS output, a -> o.key AS a, b -> o.value AS b, predict_internal.difference(a -> o.key, b -> o.value) AS d
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

CREATE FUNCTION predict.compare(model_a text, model_b text, query text, tolerance float8 DEFAULT 1e-4)
    RETURNS TABLE (output text, rows bigint, agreement float8, mean_difference float8, median_difference float8, p90_difference float8,
                   p99_difference float8, max_difference float8, worst jsonb)
    LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT c.* FROM predict_internal.compare_under(pg_catalog.current_setting('search_path'), model_a, model_b, query, tolerance) AS c;
END $$;
COMMENT ON FUNCTION predict.compare(text, text, text, float8) IS
    'how two versions answer the rows of a query: agreement, differences |a - b| / max(1, |a|), and the five rows that disagree most, for each output';

REVOKE EXECUTE ON FUNCTION predict.add_checks(text, text, text, float8), predict.drop_checks(text, text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION predict_internal.owns_model(oid, text), predict_internal.must_own(oid, text), predict_internal.put_checks(oid, text, text, jsonb, float8, text, jsonb),
    predict_internal.forget_checks(oid, text, text), predict_internal.put_check_result(oid, text, integer, text, integer, integer, float8, text) FROM PUBLIC;
