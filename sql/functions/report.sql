-- The facts of predict.report(). SQL gathers them as one JSON document; src/api/report.rs renders
-- the page from it.
--
-- Everything runs with the caller's rights: row level security leaves out what is another role's. A
-- job's source is its owner's code, so it is run for that very role only. As in drift.sql, the
-- caller's query runs under the caller's search_path, and the functions around it use qualified
-- names and no operator.

CREATE VIEW predict.model_speeds AS
SELECT v.model, v.number AS version, m.batch_size,
       nullif((v.signature->>'single_micros')::float8, 0) AS single_micros,
       nullif((v.signature->>'row_micros')::float8, 0) AS row_micros,
       CASE jsonb_typeof(v.signature->'sweep') WHEN 'array'
            THEN nullif(v.signature->'sweep', '[]') END AS sweep
  FROM predict.version v JOIN predict.models m ON (m.name, m.version) = (v.model, v.number);
COMMENT ON VIEW predict.model_speeds IS
    'one row a version: its batch size, and microseconds as measured when it was created: of a run of one row, of a row in a good batch, and of runs of growing batches as [[rows, microseconds], ..]';
GRANT SELECT ON predict.model_speeds TO PUBLIC;

-- Returns the version: its signature, file and options, and how many of the checks it passed.
CREATE FUNCTION predict_internal.report_model(of_model text, of_version integer) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_jsonb(m) || jsonb_build_object(
               'options', nullif(m.options, '{}')::text,
               'device', coalesce(m.options->>'device', 'cpu'),
               'features', CASE jsonb_typeof(m.options->'features') WHEN 'array'
                                THEN m.options->'features' END,
               'inputs', (SELECT jsonb_agg(to_jsonb(i) || jsonb_build_object(
                                     'sql_type', predict_internal.sql_type_of(i.type, '{}'))
                                 ORDER BY i.position)
                            FROM predict.model_inputs i
                           WHERE (i.model, i.version) = (of_model, of_version)),
               'outputs', (SELECT jsonb_agg(to_jsonb(o) || jsonb_build_object(
                                      'sql_type', predict_internal.sql_type_of(o.type, o.row_shape))
                                  ORDER BY o.position)
                             FROM predict.model_outputs o
                            WHERE (o.model, o.version) = (of_model, of_version)),
               'checks', (SELECT jsonb_build_object('total', count(*),
                                     'passed', count(*) FILTER (WHERE r.passed))
                            FROM predict.check_set c
                            LEFT JOIN predict.check_result r
                                   ON (r.model, r.version, r.name) = (c.model, of_version, c.name)
                           WHERE c.model = of_model HAVING count(*) > 0))
      FROM predict.models m WHERE (m.name, m.version) = (of_model, of_version)
$$;

-- Returns what a call that runs as it stands is made of: the call of predict.describe(), and the
-- middle number or the commonest category of each feature in the baseline.
CREATE FUNCTION predict_internal.report_example(reference text, of_model text) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
               'described', regexp_replace(predict.describe(reference), '^--[^\n]*\n', '', 'gn'),
               'values', coalesce(jsonb_object_agg(b.name, CASE b.type WHEN 'number' THEN
                   (SELECT to_jsonb(min(v.x))
                      FROM (SELECT x, sum(n) OVER (ORDER BY x) AS place, sum(n) OVER () AS total
                              FROM unnest(b.numbers, b.counts) u(x, n)) v
                     WHERE v.place >= v.total / 2) ELSE to_jsonb(b.categories[1]) END)
                   FILTER (WHERE b.name IS NOT NULL), '{}'))
      FROM (SELECT) one LEFT JOIN predict.baseline b ON (b.model, b.kind) = (of_model, 'feature')
$$;

-- Returns the source and the key of the caller's own job that last succeeded with the model.
CREATE FUNCTION predict_internal.report_own_job(of_model text) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('name', j.name, 'source', j.source,
               -- Whether a LIMIT may not follow.
               'limited', j.source ~ '\n' OR j.source ~* '\mLIMIT\M|--|\mFETCH\M|\mFOR\M',
               'key', (SELECT jsonb_agg(jsonb_build_object('name', k.name, 'sql_type', c->>'type')
                                        ORDER BY k.n)
                         FROM unnest(j.key) WITH ORDINALITY k(name, n)
                         JOIN jsonb_array_elements(j.columns) c ON c->>'name' = k.name))
      FROM predict_internal.job_of(of_model) j WHERE j.id IS NOT NULL
$$;

-- Returns the versions of a model with the results of its checks, and its newest events.
CREATE FUNCTION predict_internal.report_versions(of_model text) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
               'versions', (SELECT jsonb_agg(to_jsonb(v) || jsonb_build_object(
                                       'options', nullif(v.options, '{}')::text,
                                       'checks', (
                                           SELECT jsonb_agg(to_jsonb(r) ORDER BY r.name)
                                             FROM predict.check_results r
                                            WHERE (r.model, r.version) = (of_model, v.version)
                                              AND predict.owns_model(of_model)))
                                   ORDER BY v.version DESC)
                              FROM predict.models v WHERE v.name = of_model),
               'history', (SELECT jsonb_agg(to_jsonb(h) ORDER BY h.id DESC)
                             FROM (SELECT * FROM predict.history x WHERE x.model = of_model
                                    ORDER BY x.id DESC LIMIT 40) h),
               'earlier', (SELECT greatest(count(*) - 40, 0) FROM predict.history h
                            WHERE h.model = of_model))
$$;

-- Returns the jobs that score with a model, the one that ran last first, with their newest runs
-- and errors.
CREATE FUNCTION predict_internal.report_jobs(of_model text) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH job AS MATERIALIZED (
        SELECT j.*, (SELECT max(r.id) FROM predict.job_run r WHERE r.job = j.id) AS last
          FROM predict.job j WHERE predict.model_of(j.model) = of_model
    ), run AS MATERIALIZED (
        SELECT r.*, t.micros, t.micros / nullif(r.rows, 0)::float8 AS row_micros,
               row_number() OVER (PARTITION BY r.job ORDER BY r.id DESC) AS age
          FROM predict.job_run r JOIN job j ON j.id = r.job,
               LATERAL (SELECT (extract(epoch FROM r.finished - r.started) * 1000000)::bigint
                            AS micros) t
    )
    SELECT jsonb_build_object(
               'scored', (SELECT sum(r.scored) FROM run r),
               'last_run', (SELECT to_jsonb(r) FROM run r ORDER BY r.id DESC LIMIT 1),
               'more', (SELECT greatest(count(*) - 6, 0) FROM job),
               'jobs', (SELECT jsonb_agg(to_jsonb(j) || jsonb_build_object(
                                   'owner', pg_get_userbyid(j.owner),
                                   'runs', (SELECT jsonb_agg(to_jsonb(r) ORDER BY r.id)
                                              FROM run r WHERE r.job = j.id AND r.age <= 30),
                                   'errors', (SELECT jsonb_agg(to_jsonb(e) || jsonb_build_object(
                                                         'key', e.key::text) ORDER BY e.id DESC)
                                                FROM (SELECT x.* FROM predict.job_error x
                                                        JOIN run r ON r.id = x.run
                                                       WHERE r.job = j.id
                                                       ORDER BY x.id DESC LIMIT 5) e))
                               ORDER BY j.last DESC NULLS LAST, j.id)
                          FROM (SELECT * FROM job ORDER BY last DESC NULLS LAST, id LIMIT 6) j))
$$;

-- Returns what the server has counted of all uses of a model.
CREATE FUNCTION predict_internal.report_counters(of_model text) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_agg(to_jsonb(s) || jsonb_build_object(
                         'batch_rows', s.rows::float8 / nullif(s.batches, 0),
                         'row_micros', s.run_time * 1e3 / nullif(s.rows, 0),
                         'load_micros', s.load_time * 1e3 / nullif(s.loads, 0))
                     ORDER BY s.version DESC)
      FROM predict.stat_models s WHERE s.model = of_model
$$;

-- Returns what was measured of a version when it was created.
CREATE FUNCTION predict_internal.report_speed(of_model text, of_version integer) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_jsonb(s) || jsonb_build_object('sweep',
               (SELECT jsonb_agg(jsonb_build_object('rows', v.rows, 'micros', v.micros,
                                     'row_micros', v.micros / v.rows,
                                     'speed', v.rows / nullif(v.micros, 0) * 1e6) ORDER BY v.n)
                  FROM (SELECT (p->>0)::float8 AS rows, (p->>1)::float8 AS micros, n
                          FROM jsonb_array_elements(s.sweep) WITH ORDINALITY u(p, n)) v))
      FROM predict.model_speeds s WHERE (s.model, s.version) = (of_model, of_version)
$$;

-- Gathers the document. A part that cannot be gathered, because somebody wrote into a table by
-- hand, is {"error": message, "sqlstate": code}.
CREATE FUNCTION predict_internal.report_facts(reference text, compared jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_model text := predict.model_of(reference);
    of_version integer := predict.version_of(reference);
    facts jsonb := jsonb_build_object('reference', reference, 'name', of_model,
        'owned', predict.owns_model(of_model), 'role', current_user, 'made_at', now(),
        'time_zone', current_setting('TimeZone'), 'database', current_database(),
        'extension_version', (SELECT e.extversion FROM pg_extension e
                               WHERE e.extname = 'pg_predict'),
        'compared', '{"missing": null, "job": null, "histograms": null, "drift": null}'
                    || compared);
    part text;
BEGIN
    FOREACH part IN ARRAY
        '{model,runtime,example,own_job,versions,jobs,counters,speed}'::text[]
    LOOP
        BEGIN
            facts := facts || jsonb_build_object(part, CASE part
                WHEN 'model' THEN predict_internal.report_model(of_model, of_version)
                WHEN 'runtime' THEN to_jsonb(predict.runtime())
                WHEN 'example' THEN predict_internal.report_example(reference, of_model)
                WHEN 'own_job' THEN predict_internal.report_own_job(of_model)
                WHEN 'versions' THEN predict_internal.report_versions(of_model)
                WHEN 'jobs' THEN predict_internal.report_jobs(of_model)
                WHEN 'counters' THEN predict_internal.report_counters(of_model)
                WHEN 'speed' THEN predict_internal.report_speed(of_model, of_version) END);
        EXCEPTION WHEN OTHERS THEN
            facts := facts || jsonb_build_object(part,
                jsonb_build_object('error', SQLERRM, 'sqlstate', SQLSTATE));
        END;
    END LOOP;
    RETURN facts;
END $$;

-- Renders the page from its facts.
CREATE FUNCTION predict_internal.render_report(facts jsonb) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pg_predict_render_report';

CREATE FUNCTION predict.report(model text, query text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    reference pg_catalog.text := pg_catalog.split_part(model, '/', 1);
    compared pg_catalog.jsonb;
BEGIN
    IF model IS NULL THEN
        RAISE null_value_not_allowed
            USING MESSAGE = 'the model of predict.report() may not be NULL';
    END IF;
    -- Raises an error if there is no such version, or if the caller may not use it.
    PERFORM predict.version_of(reference);
    IF query IS NULL THEN
        compared := predict_internal.compare_job(reference);
    ELSE
        compared := predict_internal.compare_staged(predict_internal.stage(reference, query, 'drift', false), NULL);
    END IF;
    RETURN predict_internal.render_report(predict_internal.report_facts(reference, compared));
END $$;
COMMENT ON FUNCTION predict.report(text, text) IS
    'one page of HTML about a model: signature and a call, versions, jobs, throughput, and its predictions beside the baseline: those of the caller''s last job, or of the rows of a query';
