-- Jobs: a source of rows is scored by key, a chunk at a time, into a target table, and each chunk is committed.
--
-- A job belongs to the role that made it, and runs as that role: its source and its target are reached with that role's rights
-- alone. Row level security shows jobs, their runs and their failed rows to members of the role, and lets only the role itself
-- write. The procedure holds a session's advisory lock on the job, so that two runs cannot overlap; what a job has reached is
-- committed with the rows of its chunk, so that whatever ends a run, the next one goes on behind the last chunk.

CREATE TABLE predict.job (
    id                integer      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner             name         NOT NULL DEFAULT current_user,
    name              text         COLLATE "C" NOT NULL CHECK (name <> ''),
    model             text         NOT NULL,
    source            text         NOT NULL,
    key               text[]       NOT NULL,
    target            text         NOT NULL,
    options           jsonb        NOT NULL DEFAULT '{}',
    columns           jsonb        NOT NULL,
    search_path       text         NOT NULL,
    -- The last key of the last chunk that was committed, as texts, and the version that scored it: of a run that has not ended.
    reached          jsonb,
    reached_version  integer,
    created_at        timestamptz  NOT NULL DEFAULT now(),
    UNIQUE (owner, name)
);
CREATE TABLE predict.job_run (
    id        bigint       GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job       integer      NOT NULL,
    owner     name         NOT NULL DEFAULT current_user,
    version   integer      NOT NULL,
    status    text         NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'succeeded', 'failed', 'interrupted')),
    resumed   boolean      NOT NULL,
    started   timestamptz  NOT NULL DEFAULT clock_timestamp(),
    finished  timestamptz,
    pid       integer      NOT NULL DEFAULT pg_backend_pid(),
    chunks    integer      NOT NULL DEFAULT 0,
    rows      bigint       NOT NULL DEFAULT 0,
    scored    bigint       NOT NULL DEFAULT 0,
    skipped   bigint       NOT NULL DEFAULT 0,
    failed    bigint       NOT NULL DEFAULT 0,
    deleted   bigint       NOT NULL DEFAULT 0,
    message   text
);
CREATE INDEX job_run_job ON predict.job_run (job);
CREATE TABLE predict.job_error (
    id        bigint       GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run       bigint       NOT NULL,
    owner     name         NOT NULL DEFAULT current_user,
    key       jsonb        NOT NULL,
    sqlstate  text         NOT NULL,
    message   text         NOT NULL,
    detail    text,
    at        timestamptz  NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX job_error_run ON predict.job_error (run);

SELECT pg_catalog.pg_extension_config_dump('predict.job', '');
SELECT pg_catalog.pg_extension_config_dump('predict.job_run', '');
SELECT pg_catalog.pg_extension_config_dump('predict.job_error', '');
SELECT pg_catalog.pg_extension_config_dump('predict.job_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('predict.job_run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('predict.job_error_id_seq', '');

-- Whether the caller is a member of a role, which may be gone.
CREATE FUNCTION predict.is_member_of(role name) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT pg_catalog.pg_has_role(r.oid, 'USAGE') FROM pg_catalog.pg_roles r WHERE r.rolname = role), false)
$$;

ALTER TABLE predict.job ENABLE ROW LEVEL SECURITY;
ALTER TABLE predict.job_run ENABLE ROW LEVEL SECURITY;
ALTER TABLE predict.job_error ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON predict.job FOR SELECT USING (predict.is_member_of(owner));
CREATE POLICY own ON predict.job USING (owner = current_user) WITH CHECK (owner = current_user);
CREATE POLICY seen ON predict.job_run FOR SELECT USING (predict.is_member_of(owner));
CREATE POLICY own ON predict.job_run USING (owner = current_user) WITH CHECK (owner = current_user);
CREATE POLICY seen ON predict.job_error FOR SELECT USING (predict.is_member_of(owner));
CREATE POLICY own ON predict.job_error USING (owner = current_user) WITH CHECK (owner = current_user);
GRANT SELECT, INSERT, UPDATE, DELETE ON predict.job, predict.job_run, predict.job_error TO PUBLIC;

CREATE VIEW predict.jobs WITH (security_invoker = true) AS
SELECT j.name, j.owner, j.model, j.source, array_to_string(j.key, ', ') AS key, j.target, j.options,
       coalesce(r.status, 'never run') AS status, j.reached IS NOT NULL AS resumes, j.reached AS last_key,
       r.started AS last_started, r.finished AS last_finished, r.version AS last_version, r.message AS last_message, j.created_at
  FROM predict.job j
  LEFT JOIN LATERAL (SELECT * FROM predict.job_run r WHERE r.job = j.id ORDER BY r.id DESC LIMIT 1) r ON true;
COMMENT ON VIEW predict.jobs IS 'one row a job, with how its last run went and whether the next one goes on behind a key';

CREATE VIEW predict.job_runs WITH (security_invoker = true) AS
SELECT r.id AS run, j.name AS job, r.owner, r.version, r.status, r.resumed, r.started, r.finished, r.pid, r.chunks, r.rows, r.scored,
       r.skipped, r.failed, r.deleted, r.message
  FROM predict.job_run r JOIN predict.job j ON j.id = r.job;
COMMENT ON VIEW predict.job_runs IS 'one row a run of a job: rows of the source, scored, skipped, failed, deleted from the target';

CREATE VIEW predict.job_errors WITH (security_invoker = true) AS
SELECT e.id, e.run, j.name AS job, e.owner, e.key, e.sqlstate, e.message, e.detail, e.at
  FROM predict.job_error e JOIN predict.job_run r ON r.id = e.run JOIN predict.job j ON j.id = r.job;
COMMENT ON VIEW predict.job_errors IS 'one row a row that failed in a run of a job: its key and the error';

GRANT SELECT ON predict.jobs, predict.job_runs, predict.job_errors TO PUBLIC;

-- The SQL type that an output comes in.
CREATE FUNCTION predict.sql_type_of(type text, row_shape integer[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN row_shape IS NULL OR scalar IS NULL THEN 'jsonb' WHEN row_shape = '{}' THEN scalar ELSE scalar || '[]' END
      FROM (SELECT CASE WHEN type IN ('float16', 'bfloat16', 'float32') THEN 'real' WHEN type = 'float64' THEN 'double precision'
                        WHEN type IN ('int8', 'int16', 'uint8') THEN 'smallint' WHEN type IN ('int32', 'uint16') THEN 'integer'
                        WHEN type IN ('int64', 'uint32') THEN 'bigint' WHEN type = 'uint64' THEN 'numeric'
                        WHEN type = 'bool' THEN 'boolean' WHEN type = 'string' THEN 'text' END AS scalar) s
$$;

-- The columns that a job writes: name, output, expression over the row p of predictions(), type. By the option "columns", or
-- all outputs under their own names.
CREATE FUNCTION predict.job_columns(model text, options jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_variable
DECLARE
    result jsonb := '[]';
    c record;
    known record;
    parts text[];
BEGIN
    FOR c IN SELECT e.key AS name, e.value AS reference FROM jsonb_each_text(options->'columns') e
              UNION ALL SELECT o.name, o.name FROM predict.model_outputs o
                         WHERE NOT options ? 'columns' AND o.model = predict.model_of(model) AND o.version = predict.version_of(model)
    LOOP
        parts := regexp_match(c.reference, '^(.*?)(?:\[([^\]]*)\])?$');
        SELECT * INTO known FROM predict.model_outputs m
         WHERE m.model = predict.model_of(model) AND m.version = predict.version_of(model) AND m.name = parts[1];
        IF NOT FOUND THEN
            RAISE undefined_object USING MESSAGE = format('model "%s" has no output "%s"', model, parts[1]),
                HINT = 'The view predict.model_outputs lists the outputs.';
        END IF;
        result := result || jsonb_build_object('name', c.name, 'output', known.name, 'of', predict.sql_type_of(known.type, known.row_shape),
            'type', CASE WHEN parts[2] IS NULL THEN predict.sql_type_of(known.type, known.row_shape)
                         WHEN predict.sql_type_of(known.type, known.row_shape) = 'jsonb' THEN 'double precision'
                         ELSE replace(predict.sql_type_of(known.type, known.row_shape), '[]', '') END,
            'expression', CASE WHEN parts[2] IS NULL THEN format('p.%I', known.name)
                               WHEN predict.sql_type_of(known.type, known.row_shape) = 'jsonb' THEN format('(p.%I->>%L)::double precision', known.name, parts[2])
                               ELSE format('p.%I[%s]', known.name, parts[2]::integer) END);
    END LOOP;
    RETURN result;
END $$;

-- A condition on the key of a row: it is beyond a position, or up to it.
CREATE FUNCTION predict.key_condition(job predict.job, alias text, operator text, reached jsonb) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN reached IS NULL THEN 'true' ELSE
        format('(%s) %s (%s)', string_agg(format('%s.%I', alias, k.name), ', ' ORDER BY k.n), operator,
               string_agg(format('%L::%s', reached->>(k.n - 1)::integer, c->>'type'), ', ' ORDER BY k.n)) END
      FROM unnest(job.key) WITH ORDINALITY k(name, n) JOIN jsonb_array_elements(job.columns) c ON c->>'name' = k.name
$$;

-- The statements of a run, in pieces around the condition on the key.
CREATE FUNCTION predict.job_statements(job predict.job, version integer) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_variable
DECLARE
    model text := predict.model_of(job.model);
    outputs jsonb := predict.job_columns(format('%s@%s', model, version), job.options);
    keys text := (SELECT string_agg(format('s.%I', k), ', ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n));
    not_null text := (SELECT string_agg(format('s.%I IS NOT NULL', k), ' AND ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n));
    texts text := (SELECT string_agg(format('s.%I::text', k), ', ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n));
    same_key text := (SELECT string_agg(format('t.%I = s.%1$I', k), ' AND ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n));
    source text := format(E'(\n%s\n) s', job.source);
    skip boolean := coalesce((job.options->>'skip_unchanged')::boolean, false);
    inputs text[];
    hash text := 'NULL::bigint';
    kept text[];
    into_columns text; from_columns text; definition text; updates text;
BEGIN
    kept := ARRAY(SELECT c->>'name' FROM jsonb_array_elements(predict.columns_of(job.target::regclass)) c);
    IF skip THEN
        -- What the model takes of a row, in an order of its own; types without a hash function go as text.
        inputs := ARRAY(SELECT CASE WHEN c->>'type' ~ '^(smallint|integer|bigint|real|double precision|numeric|boolean|text|character|date|timestamp|time|uuid|bytea|jsonb|interval)'
                                    THEN format('s.%I', c->>'name') ELSE format('s.%I::text', c->>'name') END
                          FROM jsonb_array_elements(job.columns) c
                         WHERE lower(c->>'name') IN (SELECT lower(i.name) FROM predict.model_inputs i WHERE i.model = model AND i.version = version
                                                      UNION ALL SELECT lower(f) FROM predict.models m, jsonb_array_elements_text(m.options->'features') f
                                                                 WHERE m.name = model AND m.version = version
                                                      UNION ALL SELECT unnest(ARRAY['text', 'text_pair']))
                         ORDER BY c->>'name');
        IF inputs = '{}' THEN
            inputs := ARRAY(SELECT format('s.%I::text', c->>'name') FROM jsonb_array_elements(job.columns) c ORDER BY 1);
        END IF;
        hash := format('hash_record_extended(ROW(%s), %s)', array_to_string(inputs, ', '), hashtextextended(model, 0));
    END IF;
    definition := (SELECT string_agg(format('predict_key_%s %s', k.n, c->>'type'), ', ' ORDER BY k.n)
                     FROM unnest(job.key) WITH ORDINALITY k(name, n) JOIN jsonb_array_elements(job.columns) c ON c->>'name' = k.name)
        || ', predict_hash bigint'
        || (SELECT coalesce(string_agg(DISTINCT format(', %I %s', o->>'output', o->>'of'), ''), '') FROM jsonb_array_elements(outputs) o);
    into_columns := (SELECT string_agg(quote_ident(k), ', ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n))
        || (SELECT coalesce(string_agg(format(', %I', o->>'name'), '' ORDER BY n), '') FROM jsonb_array_elements(outputs) WITH ORDINALITY e(o, n));
    from_columns := (SELECT string_agg(format('p.predict_key_%s', n), ', ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n))
        || (SELECT coalesce(string_agg(', ' || (o->>'expression'), '' ORDER BY n), '') FROM jsonb_array_elements(outputs) WITH ORDINALITY e(o, n));
    updates := (SELECT string_agg(format('%I = excluded.%1$I', o->>'name'), ', ' ORDER BY n) FROM jsonb_array_elements(outputs) WITH ORDINALITY e(o, n));
    IF 'model_version' = ANY (kept) THEN
        into_columns := into_columns || ', model_version';
        from_columns := from_columns || format(', %s', version);
        updates := concat_ws(', ', updates, 'model_version = excluded.model_version');
    END IF;
    IF 'scored_at' = ANY (kept) THEN
        into_columns := into_columns || ', scored_at';
        from_columns := from_columns || ', now()';
        updates := concat_ws(', ', updates, 'scored_at = excluded.scored_at');
    END IF;
    IF skip THEN
        into_columns := into_columns || ', input_hash';
        from_columns := from_columns || ', p.predict_hash';
        updates := concat_ws(', ', updates, 'input_hash = excluded.input_hash');
    END IF;
    RETURN jsonb_build_object(
        'boundary', ARRAY[format('SELECT jsonb_build_array(%s), count(*) OVER () FROM (SELECT %s FROM %s WHERE %s AND ', replace(texts, 's.', 'b.'), keys, source, not_null),
                          format(' ORDER BY %s FETCH FIRST %s ROWS WITH TIES) b ORDER BY %s LIMIT 1', keys, coalesce((job.options->>'chunk_size')::integer, 10000),
                                 (SELECT string_agg(format('b.%I DESC', k), ', ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n)))],
        'middle', ARRAY[format('SELECT jsonb_build_array(%s) FROM %s WHERE %s AND ', texts, source, not_null), format(' ORDER BY %s OFFSET $1 LIMIT 1', keys)],
        'nulls', format('SELECT count(*) FROM %s WHERE NOT (%s)', source, not_null),
        'chunk', ARRAY[format('INSERT INTO %s AS t (%s) SELECT %s FROM @extschema@.predictions((SELECT @extschema@.predict_batch(%L, predict_row) FROM (SELECT s.*, %s, %s AS predict_hash FROM %s%s',
                              job.target, into_columns, from_columns, format('%s@%s', model, version),
                              (SELECT string_agg(format('s.%I AS predict_key_%s', k, n), ', ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n)),
                              hash, source, CASE WHEN skip THEN format(' LEFT JOIN (SELECT * FROM %s t WHERE ', job.target) ELSE '' END),
                       format('%s WHERE %s AND ', CASE WHEN skip THEN format(') t ON %s', same_key) ELSE '' END, not_null),
                       format('%s) predict_row)) AS p(%s) ON CONFLICT (%s) DO %s',
                              CASE WHEN skip THEN format(' AND (t.input_hash IS NULL OR t.input_hash <> %s OR t.model_version IS DISTINCT FROM %s)', hash, version) ELSE '' END,
                              definition, (SELECT string_agg(quote_ident(k), ', ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n)),
                              CASE WHEN updates IS NULL THEN 'NOTHING' ELSE 'UPDATE SET ' || updates END)],
        'skips', skip,
        'delete', ARRAY[format('DELETE FROM %s t WHERE NOT EXISTS (SELECT FROM %s WHERE %s AND ', job.target, source, same_key), ') AND ']);
END $$;

-- The statement that scores the rows of a range. Both sides of its join are cut to the range, which no planner finds out.
CREATE FUNCTION predict.chunk_statement(job predict.job, statements jsonb, beyond jsonb, up_to jsonb) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT (statements->'chunk'->>0)
        || CASE WHEN (statements->>'skips')::boolean THEN predict.key_condition(job, 't', '>', beyond) || ' AND ' || predict.key_condition(job, 't', '<=', up_to) ELSE '' END
        || (statements->'chunk'->>1) || predict.key_condition(job, 's', '>', beyond) || ' AND ' || predict.key_condition(job, 's', '<=', up_to)
        || (statements->'chunk'->>2)
$$;

-- Checks what a job is made of, and makes its target where that is not there. Gives the job with what was found out.
CREATE FUNCTION predict.check_job(job predict.job) RETURNS predict.job LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    known CONSTANT text[] := '{chunk_size,columns,delete_missing,keep_runs,max_errors,skip_unchanged}';
    unknown text := (SELECT k FROM jsonb_object_keys(job.options) k WHERE k <> ALL (known) LIMIT 1);
    bad text;
    version integer;
    statements jsonb;
    k text;
    is_new boolean;
BEGIN
    IF unknown IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('invalid option "%s" of a job', unknown), HINT = format('The options are %s.', array_to_string(known, ', '));
    END IF;
    bad := CASE WHEN job.options ? 'chunk_size' AND NOT coalesce(job.options->>'chunk_size' ~ '^[0-9]{1,7}$' AND (job.options->>'chunk_size')::integer BETWEEN 1 AND 1000000, false) THEN 'chunk_size, from 1 to 1000000 rows'
                WHEN job.options ? 'max_errors' AND NOT coalesce(job.options->>'max_errors' ~ '^[0-9]{1,9}$', false) THEN 'max_errors, a number of rows'
                WHEN job.options ? 'keep_runs' AND NOT coalesce(job.options->>'keep_runs' ~ '^[1-9][0-9]{0,8}$', false) THEN 'keep_runs, a number of runs from 1'
                WHEN job.options ? 'columns' AND jsonb_typeof(job.options->'columns') <> 'object' THEN 'columns, an object of column names and outputs'
                WHEN job.options ? 'skip_unchanged' AND jsonb_typeof(job.options->'skip_unchanged') <> 'boolean' THEN 'skip_unchanged, true or false'
                WHEN job.options ? 'delete_missing' AND jsonb_typeof(job.options->'delete_missing') <> 'boolean' THEN 'delete_missing, true or false' END;
    IF bad IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('invalid value of an option of a job: %s', bad);
    END IF;
    version := predict.version_of(job.model);
    job.search_path := current_setting('search_path');
    -- A query, or else the name of a table or a view.
    job.source := regexp_replace(job.source, '[;\s]+$', '');
    IF job.source !~* '^[\s(]*(SELECT|WITH|VALUES|TABLE)\M' THEN
        job.source := (SELECT format('SELECT * FROM %I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = job.source::regclass);
    END IF;
    EXECUTE format(E'CREATE TEMP TABLE predict_source ON COMMIT DROP AS SELECT * FROM (\n%s\n) s WITH NO DATA', job.source);
    job.columns := predict.columns_of('pg_temp.predict_source');
    DROP TABLE pg_temp.predict_source;
    FOREACH k IN ARRAY job.key LOOP
        IF NOT EXISTS (SELECT FROM jsonb_array_elements(job.columns) c WHERE c->>'name' = k) THEN
            RAISE undefined_column USING MESSAGE = format('the source of job "%s" has no key column "%s"', job.name, k),
                DETAIL = format('Its columns: %s.', (SELECT string_agg(quote_ident(c->>'name'), ', ') FROM jsonb_array_elements(job.columns) c));
        END IF;
    END LOOP;
    is_new := to_regclass(job.target) IS NULL;
    IF is_new THEN
        EXECUTE format('CREATE TABLE %s (%s%s, model_version integer NOT NULL, scored_at timestamptz NOT NULL%s, PRIMARY KEY (%s))', job.target,
            (SELECT string_agg(format('%I %s', k.name, c->>'type'), ', ' ORDER BY k.n)
               FROM unnest(job.key) WITH ORDINALITY k(name, n) JOIN jsonb_array_elements(job.columns) c ON c->>'name' = k.name),
            (SELECT coalesce(string_agg(format(', %I %s', o->>'name', o->>'type'), '' ORDER BY n), '')
               FROM jsonb_array_elements(predict.job_columns(job.model, job.options)) WITH ORDINALITY e(o, n)),
            CASE WHEN (job.options->>'skip_unchanged')::boolean THEN ', input_hash bigint' ELSE '' END,
            (SELECT string_agg(quote_ident(k.name), ', ' ORDER BY k.n) FROM unnest(job.key) WITH ORDINALITY k(name, n)));
    END IF;
    job.target := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(job.target));
    IF (job.options->>'skip_unchanged')::boolean
       AND 2 <> (SELECT count(*) FROM jsonb_array_elements(predict.columns_of(job.target::regclass)) c WHERE (c->>'name', c->>'type') IN (('input_hash', 'bigint'), ('model_version', 'integer'))) THEN
        RAISE undefined_column USING MESSAGE = format('table %s lacks a column that the option "skip_unchanged" needs', job.target),
            HINT = 'It needs the columns input_hash bigint and model_version integer.';
    END IF;
    -- Columns and the key of the target are checked by planning; what the model takes of a row, by scoring one.
    statements := predict.job_statements(job, version);
    EXECUTE 'EXPLAIN ' || predict.chunk_statement(job, statements, NULL, NULL);
    EXECUTE 'EXPLAIN ' || (statements->'boundary'->>0) || 'true' || (statements->'boundary'->>1);
    BEGIN
        EXECUTE format(E'SELECT @extschema@.predict_batch(%L, predict_row) FROM (SELECT * FROM (\n%s\n) s LIMIT 1) predict_row', predict.model_of(job.model) || '@' || version, job.source);
    EXCEPTION WHEN external_routine_exception OR numeric_value_out_of_range OR null_value_not_allowed THEN
        -- A bad row is for its run to tell of.
    END;
    IF is_new THEN
        RAISE NOTICE USING MESSAGE = format('table %s is created for job "%s"', job.target, job.name);
    END IF;
    RETURN job;
END $$;

CREATE FUNCTION predict.create_job(name text, model text, source text, key text, target text, options jsonb DEFAULT '{}') RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    j predict.job;
BEGIN
    IF name IS NULL OR model IS NULL OR source IS NULL OR key IS NULL OR target IS NULL OR options IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'no argument of predict.create_job() may be NULL';
    END IF;
    IF EXISTS (SELECT FROM predict.job x WHERE x.owner = current_user AND x.name = name) THEN
        RAISE duplicate_object USING MESSAGE = format('job "%s" already exists', name), HINT = 'predict.alter_job() changes it.';
    END IF;
    j.owner := current_user;
    j.name := name; j.model := model; j.source := source; j.target := target; j.options := options;
    j.key := ARRAY(SELECT (parse_ident(trim(k)))[1] FROM string_to_table(key, ',') k);
    j := predict.check_job(j);
    INSERT INTO predict.job (name, model, source, key, target, options, columns, search_path)
    VALUES (j.name, j.model, j.source, j.key, j.target, j.options, j.columns, j.search_path);
END $$;
COMMENT ON FUNCTION predict.create_job(text, text, text, text, text, jsonb) IS
    'keep a job that scores the rows of a source, a table or a query, by key into a target table, which is made where it is not there';

-- A job of the caller's, by name.
CREATE FUNCTION predict.own_job(name text) RETURNS predict.job LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_variable
DECLARE
    j predict.job;
    other name;
BEGIN
    SELECT * INTO j FROM predict.job x WHERE x.owner = current_user AND x.name = name;
    IF FOUND THEN
        RETURN j;
    END IF;
    SELECT x.owner INTO other FROM predict.job x WHERE x.name = name LIMIT 1;
    IF FOUND THEN
        RAISE insufficient_privilege USING MESSAGE = format('job "%s" belongs to role "%s"', name, other),
            DETAIL = 'A job runs with its owner''s rights, and nobody else''s.', HINT = format('SET ROLE %I first.', other);
    END IF;
    RAISE undefined_object USING MESSAGE = format('job "%s" does not exist', name), HINT = 'The view predict.jobs lists the jobs.';
END $$;

-- Takes the lock of a job for this session, or raises 55P03.
CREATE FUNCTION predict.lock_job(job predict.job) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    class CONSTANT integer := 'predict.job'::regclass::oid::bigint::bit(32)::integer;
    is_ours CONSTANT boolean := EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.pid = pg_backend_pid() AND l.granted
                                            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                                            AND l.classid = 'predict.job'::regclass AND l.objid = job.id AND l.objsubid = 2);
BEGIN
    -- One that a run of this session left behind is taken over.
    IF NOT is_ours AND NOT pg_try_advisory_lock(class, job.id) THEN
        RAISE lock_not_available USING MESSAGE = format('job "%s" is already running', job.name),
            DETAIL = (SELECT format('Process %s runs it since %s.', r.pid, r.started) FROM predict.job_run r WHERE r.job = job.id AND r.status = 'running' ORDER BY r.id DESC LIMIT 1);
    END IF;
END $$;
CREATE FUNCTION predict.unlock_job(job predict.job) RETURNS boolean LANGUAGE sql AS $$
    SELECT pg_advisory_unlock('predict.job'::regclass::oid::bigint::bit(32)::integer, job.id)
$$;

CREATE FUNCTION predict.alter_job(name text, options jsonb DEFAULT NULL, model text DEFAULT NULL, source text DEFAULT NULL, key text DEFAULT NULL, target text DEFAULT NULL)
    RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    before predict.job := predict.own_job(name);
    j predict.job := before;
BEGIN
    PERFORM predict.lock_job(before);
    BEGIN
        j.options := jsonb_strip_nulls(j.options || coalesce(options, '{}'));
        j.model := coalesce(model, j.model);
        j.source := coalesce(source, j.source);
        j.target := coalesce(target, j.target);
        j.key := coalesce(ARRAY(SELECT (parse_ident(trim(k)))[1] FROM string_to_table(key, ',') k WHERE key IS NOT NULL), '{}');
        IF j.key = '{}' THEN
            j.key := before.key;
        END IF;
        j := predict.check_job(j);
        UPDATE predict.job x SET (model, source, key, target, options, columns, search_path) = (j.model, j.source, j.key, j.target, j.options, j.columns, j.search_path)
         WHERE x.id = j.id;
        -- What was scored so far is of another job.
        IF (j.model, j.source, j.key, j.target, j.options->'columns') IS DISTINCT FROM (before.model, before.source, before.key, before.target, before.options->'columns') THEN
            UPDATE predict.job x SET (reached, reached_version) = (NULL, NULL) WHERE x.id = j.id;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        PERFORM predict.unlock_job(before);
        RAISE;
    END;
    PERFORM predict.unlock_job(before);
END $$;
COMMENT ON FUNCTION predict.alter_job(text, jsonb, text, text, text, text) IS 'change a job that does not run; options are added to those it has, and null takes one away';

CREATE FUNCTION predict.drop_job(name text) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    j predict.job := predict.own_job(name);
BEGIN
    PERFORM predict.lock_job(j);
    DELETE FROM predict.job_error e USING predict.job_run r WHERE r.id = e.run AND r.job = j.id;
    DELETE FROM predict.job_run r WHERE r.job = j.id;
    DELETE FROM predict.job x WHERE x.id = j.id;
    PERFORM predict.unlock_job(j);
END $$;
COMMENT ON FUNCTION predict.drop_job(text) IS 'forget a job, its runs and its errors; its target stays';

-- Scores the rows of a range of keys; where they fail, halves of them, until the rows that fail are alone.
CREATE FUNCTION predict.score_range(job predict.job, statements jsonb, run bigint, beyond jsonb, up_to jsonb, rows bigint, errors_left bigint, OUT scored bigint, OUT failed bigint)
    LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    condition text := predict.key_condition(job, 's', '>', beyond) || ' AND ' || predict.key_condition(job, 's', '<=', up_to);
    state text; message text; detail text;
    middle jsonb;
    part record;
BEGIN
    failed := 0;
    BEGIN
        EXECUTE predict.chunk_statement(job, statements, beyond, up_to);
        GET DIAGNOSTICS scored = ROW_COUNT;
        RETURN;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
        IF state = '21000' THEN
            RAISE cardinality_violation USING MESSAGE = format('the source of job "%s" gives a key more than once', job.name),
                DETAIL = format('It is beyond %s and up to %s.', coalesce(beyond::text, 'the beginning'), up_to);
        END IF;
        -- Values, constraints, models and triggers fail for rows; anything else fails for all.
        IF state !~ '^(22|23|38|P0)' THEN
            RAISE;
        END IF;
    END;
    scored := 0;
    IF rows <= 1 THEN
        IF errors_left <= 0 THEN
            RAISE configuration_limit_exceeded USING MESSAGE = format('job "%s" stops: more rows fail than its option "max_errors" allows', job.name),
                DETAIL = format('The last is %s: %s', up_to, message), HINT = 'The view predict.job_errors shows those before.';
        END IF;
        INSERT INTO predict.job_error (run, key, sqlstate, message, detail) VALUES (run, up_to, state, message, nullif(detail, ''));
        failed := 1;
        RETURN;
    END IF;
    EXECUTE (statements->'middle'->>0) || condition || (statements->'middle'->>1) INTO middle USING rows / 2 - 1;
    IF middle IS NULL OR middle = up_to THEN
        -- Rows have gone meanwhile, or the rest has one key.
        SELECT * INTO part FROM predict.score_range(job, statements, run, beyond, up_to, 1, errors_left);
        scored := part.scored;
        failed := part.failed;
        RETURN;
    END IF;
    SELECT * INTO part FROM predict.score_range(job, statements, run, beyond, middle, rows / 2, errors_left);
    scored := part.scored;
    failed := part.failed;
    SELECT * INTO part FROM predict.score_range(job, statements, run, middle, up_to, rows - rows / 2, errors_left - failed);
    scored := scored + part.scored;
    failed := failed + part.failed;
END $$;

CREATE PROCEDURE predict.run_job(name text) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    j predict.job := predict.own_job(name);
    version integer;
    statements jsonb;
    run bigint;
    beyond jsonb; up_to jsonb;
    rows bigint; scored bigint; failed bigint; deleted bigint;
    failed_before bigint := 0;
    condition text;
    ended boolean := false;
    all_failed boolean;
    checks text;
    state text; message text; detail text; hint text;
BEGIN
    PERFORM predict.lock_job(j);
    BEGIN
        -- Again, now that nobody else changes it.
        j := predict.own_job(name);
        PERFORM set_config('search_path', j.search_path, true);
        -- The lock is ours: who else was running it has ended without a word.
        UPDATE predict.job_run r SET (status, finished) = ('interrupted', clock_timestamp()) WHERE r.job = j.id AND r.status = 'running';
        version := predict.version_of(j.model);
        statements := predict.job_statements(j, version);
        IF j.reached_version IS DISTINCT FROM version THEN
            j.reached := NULL;
        END IF;
        beyond := j.reached;
        INSERT INTO predict.job_run (job, version, resumed) VALUES (j.id, version, beyond IS NOT NULL) RETURNING id INTO run;
    EXCEPTION WHEN query_canceled OR OTHERS THEN
        PERFORM predict.unlock_job(j);
        RAISE;
    END;
    COMMIT;
    WHILE NOT ended LOOP
        state := NULL;
        BEGIN
            PERFORM set_config('search_path', j.search_path, true), set_config('datestyle', 'ISO', true), set_config('intervalstyle', 'postgres', true),
                    set_config('extra_float_digits', '1', true), set_config('bytea_output', 'hex', true);
            -- Golden rows are asked again where another ONNX Runtime answered them last, or this version never did.
            IF checks IS NULL THEN
                checks := '';
                IF EXISTS (SELECT FROM predict.check_set c WHERE c.model = predict.model_of(j.model)
                              AND NOT EXISTS (SELECT FROM predict.check_result r WHERE (r.model, r.version, r.name) = (c.model, version, c.name) AND r.passed AND r.runtime = predict.runtime())) THEN
                    SELECT string_agg(format('Check "%s": %s of %s rows differ.', c.name, c.failed, c.rows), ' ') INTO checks
                      FROM predict.check(format('%s@%s', predict.model_of(j.model), version)) c WHERE NOT c.passed;
                    IF checks <> '' THEN
                        RAISE check_violation USING MESSAGE = format('version %s of model "%s" fails its checks', version, predict.model_of(j.model)), DETAIL = checks;
                    END IF;
                    checks := '';
                END IF;
                EXECUTE statements->>'nulls' INTO rows;
                IF rows > 0 THEN
                    INSERT INTO predict.job_error (run, key, sqlstate, message) VALUES (run, 'null', '22004', format('%s rows of the source have a NULL in their key, and are not scored', rows));
                    RAISE WARNING USING MESSAGE = format('%s rows of the source of job "%s" have a NULL in their key, and are not scored', rows, j.name);
                    UPDATE predict.job_run r SET failed = r.failed + rows WHERE r.id = run;
                END IF;
            END IF;
            EXECUTE (statements->'boundary'->>0) || predict.key_condition(j, 's', '>', beyond) || (statements->'boundary'->>1) INTO up_to, rows;
            scored := 0;
            failed := 0;
            deleted := 0;
            ended := up_to IS NULL;
            IF NOT ended THEN
                SELECT * INTO scored, failed FROM predict.score_range(j, statements, run, beyond, up_to, rows, coalesce((j.options->>'max_errors')::bigint, 100) - failed_before);
                failed_before := failed_before + failed;
            END IF;
            IF (j.options->>'delete_missing')::boolean THEN
                EXECUTE (statements->'delete'->>0) || predict.key_condition(j, 's', '>', beyond) || ' AND ' || predict.key_condition(j, 's', '<=', up_to)
                    || (statements->'delete'->>1) || predict.key_condition(j, 't', '>', beyond) || ' AND ' || predict.key_condition(j, 't', '<=', up_to);
                GET DIAGNOSTICS deleted = ROW_COUNT;
            END IF;
            UPDATE predict.job x SET (reached, reached_version) = (up_to, CASE WHEN up_to IS NOT NULL THEN version END) WHERE x.id = j.id;
            IF NOT FOUND THEN
                RAISE undefined_object USING MESSAGE = format('job "%s" was dropped while it ran', j.name);
            END IF;
            UPDATE predict.job_run r
               SET chunks = r.chunks + (NOT ended)::integer, rows = r.rows + coalesce(rows, 0), scored = r.scored + scored, failed = r.failed + failed,
                   skipped = r.skipped + coalesce(rows, 0) - scored - failed, deleted = r.deleted + deleted,
                   status = CASE WHEN ended THEN 'succeeded' ELSE 'running' END, finished = CASE WHEN ended THEN clock_timestamp() END
             WHERE r.id = run RETURNING r.scored = 0 AND r.skipped = 0 AND r.failed > 0 INTO all_failed;
            IF ended AND all_failed THEN
                SELECT e.sqlstate, e.message INTO state, message FROM predict.job_error e WHERE e.run = run ORDER BY e.id LIMIT 1;
                RAISE EXCEPTION USING ERRCODE = state, MESSAGE = format('no row of job "%s" could be scored: %s', j.name, message), HINT = 'The view predict.job_errors shows why, row by row.';
            END IF;
            beyond := up_to;
        EXCEPTION WHEN query_canceled OR OTHERS THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        END;
        IF state IS NOT NULL THEN
            UPDATE predict.job_run r SET (status, finished, message) = ('failed', clock_timestamp(), concat_ws(': ', message, nullif(detail, ''))) WHERE r.id = run;
            COMMIT;
            PERFORM predict.unlock_job(j);
            RAISE EXCEPTION USING ERRCODE = state, MESSAGE = message, DETAIL = coalesce(nullif(detail, ''), format('The run has reached %s.', coalesce(beyond::text, 'nothing yet'))),
                HINT = coalesce(nullif(hint, ''), 'The chunks before are kept: the next predict.run_job() goes on behind them.');
        END IF;
        COMMIT;
    END LOOP;
    -- Runs of long ago, and what failed in them.
    DELETE FROM predict.job_error e USING predict.job_run r WHERE r.id = e.run AND r.job = j.id
       AND r.id < (SELECT min(k.id) FROM (SELECT id FROM predict.job_run k WHERE k.job = j.id ORDER BY id DESC LIMIT coalesce((j.options->>'keep_runs')::integer, 100)) k);
    DELETE FROM predict.job_run r WHERE r.job = j.id
       AND r.id < (SELECT min(k.id) FROM (SELECT id FROM predict.job_run k WHERE k.job = j.id ORDER BY id DESC LIMIT coalesce((j.options->>'keep_runs')::integer, 100)) k);
    COMMIT;
    PERFORM predict.unlock_job(j);
END $$;
COMMENT ON PROCEDURE predict.run_job(text) IS
    'run a job of the caller''s: score its source chunk by chunk, committing each; goes on behind the last chunk of a run that did not end. Not inside a transaction block';
