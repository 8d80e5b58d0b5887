-- Jobs: a source of rows is scored by key, a chunk at a time, into a target table, and each chunk is committed.
--
-- A job belongs to the role that made it, and runs as that role: its source and its target are reached with that role's rights
-- alone. Row level security shows jobs, their runs and their failed rows to members of the role. What is written is written on
-- the role's behalf (src/api/behalf.rs), to its own jobs only. The procedure holds a session's lock on the job, so that two runs
-- cannot overlap; what a job has reached is committed with the rows of its chunk, so that whatever ends a run, the next one goes
-- on behind the last chunk.
--
-- The owner's statements run under the search_path that the job was made with, by predict_internal.execute_under() and answer_under();
-- everything around them under a fixed one. A procedure that commits cannot set it for itself: run_job() does so in every
-- transaction, before anything else.

CREATE VIEW predict.jobs WITH (security_invoker = true) AS
SELECT j.name, pg_get_userbyid(j.owner) AS owner, j.model, j.source,
       (SELECT string_agg(quote_ident(k.name), ', ' ORDER BY k.n) FROM unnest(j.key) WITH ORDINALITY k(name, n)) AS key, j.target, j.options,
       coalesce(r.status, 'never run') AS status, j.reached IS NOT NULL AS resumes, j.reached AS last_key,
       r.started AS last_started, r.finished AS last_finished, r.version AS last_version, r.message AS last_message, j.created_at
  FROM predict.job j
  LEFT JOIN LATERAL (SELECT * FROM predict.job_run r WHERE r.job = j.id ORDER BY r.id DESC LIMIT 1) r ON true;
COMMENT ON VIEW predict.jobs IS 'one row a job, with how its last run went and whether the next one goes on behind a key';

CREATE VIEW predict.job_runs WITH (security_invoker = true) AS
SELECT r.id AS run, j.name AS job, pg_get_userbyid(j.owner) AS owner, r.version, r.status, r.resumed, r.started, r.finished, r.pid, r.chunks, r.rows, r.scored,
       r.skipped, r.failed, r.deleted, r.message
  FROM predict.job_run r JOIN predict.job j ON j.id = r.job;
COMMENT ON VIEW predict.job_runs IS 'one row a run of a job: rows of the source, scored, skipped, failed, deleted from the target';

CREATE VIEW predict.job_errors WITH (security_invoker = true) AS
SELECT e.id, e.run, j.name AS job, pg_get_userbyid(j.owner) AS owner, e.key, e.sqlstate, e.message, e.detail, e.at
  FROM predict.job_error e JOIN predict.job_run r ON r.id = e.run JOIN predict.job j ON j.id = r.job;
COMMENT ON VIEW predict.job_errors IS 'one row a row that failed in a run of a job: its key and the error';

GRANT SELECT ON predict.jobs, predict.job_runs, predict.job_errors TO PUBLIC;

-- The names in a list as SQL has them: folded where they are not in quotes, with whatever is in them where they are.
CREATE FUNCTION predict_internal.names_of(list text) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name CONSTANT text := '\s*("(?:[^"]|"")+"|[^",.\s]+)\s*';
    names text[] := '{}';
    found text[];
    rest text := list;
BEGIN
    LOOP
        found := regexp_match(rest, '^' || name || '(,|$)');
        IF found IS NULL THEN
            RAISE invalid_parameter_value USING MESSAGE = format('%s is not a list of column names', predict_internal.literal_of(list)),
                HINT = 'Names are separated by commas; one that contains a comma, a dot, a quote or a capital stands in double quotes.';
        END IF;
        names := names || parse_ident(found[1]);
        EXIT WHEN found[2] = '';
        rest := regexp_replace(rest, '^' || name || ',', '');
    END LOOP;
    RETURN names;
END $$;

-- The SQL type that an output comes in.
CREATE FUNCTION predict_internal.sql_type_of(type text, row_shape integer[]) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN row_shape IS NULL OR scalar IS NULL THEN 'jsonb' WHEN row_shape = '{}' THEN scalar ELSE scalar || '[]' END
      FROM (SELECT CASE WHEN type IN ('float16', 'bfloat16', 'float32') THEN 'real' WHEN type = 'float64' THEN 'double precision'
                        WHEN type IN ('int8', 'int16', 'uint8') THEN 'smallint' WHEN type IN ('int32', 'uint16') THEN 'integer'
                        WHEN type IN ('int64', 'uint32') THEN 'bigint' WHEN type = 'uint64' THEN 'numeric'
                        WHEN type = 'bool' THEN 'boolean' WHEN type = 'string' THEN 'text' END AS scalar) s
$$;

-- The columns that a job writes: name, output, expression over the row p of predictions(), type. By the option "columns", or
-- all outputs under their own names.
CREATE FUNCTION predict_internal.job_columns(model text, options jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
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
            RAISE undefined_object USING MESSAGE = format('model "%s" has no output "%s"', model, predict_internal.printable_of(parts[1])),
                HINT = 'The view predict.model_outputs lists the outputs.';
        END IF;
        result := result || jsonb_build_object('name', c.name, 'output', known.name, 'of', predict_internal.sql_type_of(known.type, known.row_shape),
            'type', CASE WHEN parts[2] IS NULL THEN predict_internal.sql_type_of(known.type, known.row_shape)
                         WHEN predict_internal.sql_type_of(known.type, known.row_shape) = 'jsonb' THEN 'double precision'
                         ELSE replace(predict_internal.sql_type_of(known.type, known.row_shape), '[]', '') END,
            'expression', CASE WHEN parts[2] IS NULL THEN format('p.%I', known.name)
                               WHEN predict_internal.sql_type_of(known.type, known.row_shape) = 'jsonb' THEN format('(p.%I->>%L)::double precision', known.name, parts[2])
                               ELSE format('p.%I[%s]', known.name, parts[2]::integer) END);
    END LOOP;
    RETURN result;
END $$;

-- A condition on the key of a row: it is beyond a position, or up to it.
CREATE FUNCTION predict_internal.key_condition(job predict.job, alias text, operator text, reached jsonb) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN reached IS NULL THEN 'true' ELSE
        format('(%s) %s (%s)', string_agg(format('%s.%I', alias, k.name), ', ' ORDER BY k.n), operator,
               string_agg(format('%L::%s', reached->>(k.n - 1)::integer, c->>'type'), ', ' ORDER BY k.n)) END
      FROM unnest(job.key) WITH ORDINALITY k(name, n) JOIN jsonb_array_elements(job.columns) c ON c->>'name' = k.name
$$;

-- The statements of a run, in pieces around the condition on the key.
CREATE FUNCTION predict_internal.job_statements(job predict.job, version integer) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    model text := predict.model_of(job.model);
    outputs jsonb := predict_internal.job_columns(format('%s@%s', model, version), job.options);
    keys text := (SELECT string_agg(format('s.%I', k), ', ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n));
    not_null text := (SELECT string_agg(format('s.%I IS NOT NULL', k), ' AND ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n));
    -- Of the alias s or b.
    texts text := (SELECT string_agg(format('s.%I::pg_catalog.text', k), ', ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n));
    last_texts text := (SELECT string_agg(format('b.%I::pg_catalog.text', k), ', ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n));
    same_key text := (SELECT string_agg(format('t.%I = s.%1$I', k), ' AND ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n));
    source text := format(E'(\n%s\n) s', job.source);
    skip boolean := coalesce((job.options->>'skip_unchanged')::boolean, false);
    inputs text[];
    hash text := 'NULL::pg_catalog.int8';
    kept text[];
    into_columns text; from_columns text; definition text; updates text;
BEGIN
    kept := ARRAY(SELECT c->>'name' FROM jsonb_array_elements(predict_internal.columns_of(job.target::regclass)) c);
    IF skip THEN
        -- What the model takes of a row, in an order of its own; types without a hash function go as text.
        inputs := ARRAY(SELECT CASE WHEN c->>'type' ~ '^(smallint|integer|bigint|real|double precision|numeric|boolean|text|character|date|timestamp|time|uuid|bytea|jsonb|interval)'
                                    THEN format('s.%I', c->>'name') ELSE format('s.%I::pg_catalog.text', c->>'name') END
                          FROM jsonb_array_elements(job.columns) c
                         WHERE lower(c->>'name') IN (SELECT lower(i.name) FROM predict.model_inputs i WHERE i.model = model AND i.version = version
                                                      UNION ALL SELECT lower(f) FROM predict.models m, jsonb_array_elements_text(m.options->'features') f
                                                                 WHERE m.name = model AND m.version = version
                                                      UNION ALL SELECT unnest(ARRAY['text', 'text_pair']))
                         ORDER BY c->>'name');
        IF inputs = '{}' THEN
            inputs := ARRAY(SELECT format('s.%I::pg_catalog.text', c->>'name') FROM jsonb_array_elements(job.columns) c ORDER BY 1);
        END IF;
        hash := format('pg_catalog.hash_record_extended(ROW(%s), %s)', array_to_string(inputs, ', '), hashtextextended(model, 0));
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
        from_columns := from_columns || ', pg_catalog.now()';
        updates := concat_ws(', ', updates, 'scored_at = excluded.scored_at');
    END IF;
    IF skip THEN
        into_columns := into_columns || ', input_hash';
        from_columns := from_columns || ', p.predict_hash';
        updates := concat_ws(', ', updates, 'input_hash = excluded.input_hash');
    END IF;
    RETURN jsonb_build_object(
        'boundary', ARRAY[format('SELECT pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_array(%s), pg_catalog.count(*) OVER ()) FROM (SELECT %s FROM %s WHERE %s AND ', last_texts, keys, source, not_null),
                          format(' ORDER BY %s FETCH FIRST %s ROWS WITH TIES) b ORDER BY %s LIMIT 1', keys, coalesce((job.options->>'chunk_size')::integer, 10000),
                                 (SELECT string_agg(format('b.%I DESC', k), ', ' ORDER BY n) FROM unnest(job.key) WITH ORDINALITY k(k, n)))],
        'middle', ARRAY[format('SELECT pg_catalog.jsonb_build_array(%s) FROM %s WHERE %s AND ', texts, source, not_null), format(' ORDER BY %s OFFSET ', keys), ' LIMIT 1'],
        'nulls', format('SELECT pg_catalog.to_jsonb(pg_catalog.count(*)) FROM %s WHERE NOT (%s)', source, not_null),
        'chunk', ARRAY[format('INSERT INTO %s AS t (%s) SELECT %s FROM @extschema@.predictions((SELECT predict_internal.batch_of(%L, predict_row) FROM (SELECT s.*, %s, %s AS predict_hash FROM %s%s',
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
CREATE FUNCTION predict_internal.chunk_statement(job predict.job, statements jsonb, beyond jsonb, up_to jsonb) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (statements->'chunk'->>0)
        || CASE WHEN (statements->>'skips')::boolean THEN predict_internal.key_condition(job, 't', '>', beyond) || ' AND ' || predict_internal.key_condition(job, 't', '<=', up_to) ELSE '' END
        || (statements->'chunk'->>1) || predict_internal.key_condition(job, 's', '>', beyond) || ' AND ' || predict_internal.key_condition(job, 's', '<=', up_to)
        || (statements->'chunk'->>2)
$$;

CREATE FUNCTION predict_internal.must_be_object(options jsonb) RETURNS void
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind text := jsonb_typeof(options);
BEGIN
    IF kind <> 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'invalid options of a job',
            DETAIL = format('Options are a JSON object, and this is %s.', CASE kind WHEN 'null' THEN kind WHEN 'array' THEN 'an array' ELSE 'a ' || kind END),
            HINT = 'Write them as in ''{"chunk_size": 10000}''.';
    END IF;
END $$;

-- Checks what a job is made of, and makes its target where that is not there. Gives the job with what was found out.
CREATE FUNCTION predict_internal.check_job(job predict.job) RETURNS predict.job
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    known CONSTANT text[] := '{chunk_size,columns,delete_missing,keep_runs,max_errors,skip_unchanged}';
    unknown text;
    bad text;
    version integer;
    statements jsonb;
    k text;
    relation jsonb;
    target text;
    is_new boolean;
BEGIN
    PERFORM predict_internal.must_be_object(job.options);
    unknown := (SELECT o.name FROM jsonb_object_keys(job.options) o(name) WHERE o.name <> ALL (known) LIMIT 1);
    IF unknown IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('invalid option "%s" of a job', predict_internal.printable_of(unknown)), HINT = format('The options are %s.', array_to_string(known, ', '));
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
    -- A query, or else the name of a table or a view.
    job.source := regexp_replace(job.source, '[;\s]+$', '');
    IF job.source !~* '^[\s(]*(SELECT|WITH|VALUES|TABLE)\M' THEN
        relation := predict_internal.answer_under(job.search_path, format('SELECT pg_catalog.to_jsonb(%L::pg_catalog.regclass::pg_catalog.oid)', job.source));
        job.source := (SELECT format('SELECT * FROM %I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = (relation #>> '{}')::oid);
    END IF;
    PERFORM predict_internal.execute_under(job.search_path, format(E'CREATE TEMPORARY TABLE pg_temp.predict_source ON COMMIT DROP AS SELECT * FROM (\n%s\n) s WITH NO DATA', job.source));
    job.columns := predict_internal.columns_of('pg_temp.predict_source');
    DROP TABLE pg_temp.predict_source;
    FOREACH k IN ARRAY job.key LOOP
        IF NOT EXISTS (SELECT FROM jsonb_array_elements(job.columns) c WHERE c->>'name' = k) THEN
            RAISE undefined_column USING MESSAGE = format('the source of job "%s" has no key column "%s"', job.name, predict_internal.printable_of(k)),
                DETAIL = format('Its columns: %s.', (SELECT string_agg(predict_internal.name_of(c->>'name'), ', ') FROM jsonb_array_elements(job.columns) c));
        END IF;
    END LOOP;
    target := format('SELECT pg_catalog.to_jsonb(pg_catalog.to_regclass(%L)::pg_catalog.oid)', job.target);
    relation := predict_internal.answer_under(job.search_path, target);
    is_new := relation IS NULL;
    IF is_new THEN
        PERFORM predict_internal.execute_under(job.search_path, format('CREATE TABLE %s (%s%s, model_version pg_catalog.int4 NOT NULL, scored_at pg_catalog.timestamptz NOT NULL%s, PRIMARY KEY (%s))',
            -- Its name in quotes: nothing else that was given ends up in the statement.
            (SELECT string_agg(quote_ident(part), '.' ORDER BY n) FROM unnest(parse_ident(job.target)) WITH ORDINALITY u(part, n)),
            (SELECT string_agg(format('%I %s', k.name, c->>'type'), ', ' ORDER BY k.n)
               FROM unnest(job.key) WITH ORDINALITY k(name, n) JOIN jsonb_array_elements(job.columns) c ON c->>'name' = k.name),
            (SELECT coalesce(string_agg(format(', %I %s', o->>'name', o->>'type'), '' ORDER BY n), '')
               FROM jsonb_array_elements(predict_internal.job_columns(job.model, job.options)) WITH ORDINALITY e(o, n)),
            CASE WHEN (job.options->>'skip_unchanged')::boolean THEN ', input_hash pg_catalog.int8' ELSE '' END,
            (SELECT string_agg(quote_ident(k.name), ', ' ORDER BY k.n) FROM unnest(job.key) WITH ORDINALITY k(name, n))));
        relation := predict_internal.answer_under(job.search_path, target);
    END IF;
    job.target := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = (relation #>> '{}')::oid);
    IF (job.options->>'skip_unchanged')::boolean
       AND 2 <> (SELECT count(*) FROM jsonb_array_elements(predict_internal.columns_of(job.target::regclass)) c WHERE (c->>'name', c->>'type') IN (('input_hash', 'bigint'), ('model_version', 'integer'))) THEN
        RAISE undefined_column USING MESSAGE = format('table %s lacks a column that the option "skip_unchanged" needs', job.target),
            HINT = 'It needs the columns input_hash bigint and model_version integer.';
    END IF;
    -- Columns and the key of the target are checked by planning; what the model takes of a row, by scoring one.
    statements := predict_internal.job_statements(job, version);
    PERFORM predict_internal.execute_under(job.search_path, 'EXPLAIN ' || predict_internal.chunk_statement(job, statements, NULL, NULL));
    PERFORM predict_internal.execute_under(job.search_path, 'EXPLAIN ' || (statements->'boundary'->>0) || 'true' || (statements->'boundary'->>1));
    BEGIN
        PERFORM predict_internal.execute_under(job.search_path, format(E'SELECT predict_internal.batch_of(%L, predict_row) FROM (SELECT * FROM (\n%s\n) s LIMIT 1) predict_row', predict.model_of(job.model) || '@' || version, job.source));
    EXCEPTION WHEN external_routine_exception OR numeric_value_out_of_range OR null_value_not_allowed THEN
        -- A bad row is for its run to tell of.
    END;
    IF is_new THEN
        RAISE NOTICE USING MESSAGE = format('table %s is created for job "%s"', job.target, job.name);
    END IF;
    RETURN job;
END $$;

CREATE FUNCTION predict_internal.create_job_under(path text, name text, model text, source text, key text, target text, options jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    j predict.job;
BEGIN
    IF name IS NULL OR model IS NULL OR source IS NULL OR key IS NULL OR target IS NULL OR options IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'no argument of predict.create_job() may be NULL';
    END IF;
    IF predict_internal.is_bad_name(name) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s cannot name a job: it is empty or contains a control character', predict_internal.literal_of(name));
    END IF;
    j.owner := quote_ident(current_user)::regrole;
    IF EXISTS (SELECT FROM predict.job x WHERE x.owner = j.owner AND x.name = name) THEN
        RAISE duplicate_object USING MESSAGE = format('job "%s" already exists', name), HINT = 'predict.alter_job() changes it.';
    END IF;
    j.name := name; j.model := model; j.source := source; j.target := target; j.options := options; j.search_path := path;
    j.key := predict_internal.names_of(key);
    j := predict_internal.check_job(j);
    PERFORM predict_internal.put_job(j);
END $$;

CREATE FUNCTION predict.create_job(name text, model text, source text, key text, target text, options jsonb DEFAULT '{}') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM predict_internal.create_job_under(pg_catalog.current_setting('search_path'), name, model, source, key, target, options);
END $$;
COMMENT ON FUNCTION predict.create_job(text, text, text, text, text, jsonb) IS
    'keep a job that scores the rows of a source, a table or a query, by key into a target table, which is made where it is not there';

-- A job of the caller's, by name.
CREATE FUNCTION predict_internal.own_job(name text) RETURNS predict.job
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    j predict.job;
    other name;
BEGIN
    SELECT * INTO j FROM predict.job x WHERE x.owner = quote_ident(current_user)::regrole AND x.name = name;
    IF FOUND THEN
        RETURN j;
    END IF;
    SELECT pg_get_userbyid(x.owner) INTO other FROM predict.job x WHERE x.name = name LIMIT 1;
    IF FOUND THEN
        RAISE insufficient_privilege USING MESSAGE = format('job "%s" belongs to role "%s"', name, other),
            DETAIL = 'A job runs with its owner''s rights, and nobody else''s.', HINT = format('SET ROLE %s first.', predict_internal.name_of(other));
    END IF;
    RAISE undefined_object USING MESSAGE = format('job "%s" does not exist', name), HINT = 'The view predict.jobs lists the jobs.';
END $$;

-- Takes the lock of a job for this session, or raises 55P03.
CREATE FUNCTION predict_internal.must_lock(job predict.job) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    -- One that a run of this session left behind is taken over.
    IF NOT predict_internal.lock_job(job.id) THEN
        RAISE lock_not_available USING MESSAGE = format('job "%s" is already running', job.name),
            DETAIL = (SELECT format('Process %s runs it since %s.', r.pid, r.started) FROM predict.job_run r WHERE r.job = job.id AND r.status = 'running' ORDER BY r.id DESC LIMIT 1);
    END IF;
END $$;

CREATE FUNCTION predict_internal.alter_job_under(path text, name text, options jsonb, model text, source text, key text, target text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    before predict.job := predict_internal.own_job(name);
    j predict.job := before;
BEGIN
    PERFORM predict_internal.must_be_object(options);
    PERFORM predict_internal.must_lock(before);
    BEGIN
        j.options := jsonb_strip_nulls(j.options || coalesce(options, '{}'));
        j.model := coalesce(model, j.model);
        j.source := coalesce(source, j.source);
        j.target := coalesce(target, j.target);
        j.key := coalesce(predict_internal.names_of(key), j.key);
        j.search_path := path;
        j := predict_internal.check_job(j);
        PERFORM predict_internal.put_job(j);
    EXCEPTION WHEN OTHERS THEN
        PERFORM predict_internal.unlock_job(before.id);
        RAISE;
    END;
    PERFORM predict_internal.unlock_job(before.id);
END $$;

CREATE FUNCTION predict.alter_job(name text, options jsonb DEFAULT NULL, model text DEFAULT NULL, source text DEFAULT NULL, key text DEFAULT NULL, target text DEFAULT NULL)
    RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM predict_internal.alter_job_under(pg_catalog.current_setting('search_path'), name, options, model, source, key, target);
END $$;
COMMENT ON FUNCTION predict.alter_job(text, jsonb, text, text, text, text) IS 'change a job that does not run; options are added to those it has, and null takes one away';

CREATE FUNCTION predict.drop_job(name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    j predict.job := predict_internal.own_job(name);
BEGIN
    PERFORM predict_internal.must_lock(j);
    PERFORM predict_internal.forget_job(j.id);
    PERFORM predict_internal.unlock_job(j.id);
END $$;
COMMENT ON FUNCTION predict.drop_job(text) IS 'forget a job, its runs and its errors; its target stays';

-- Scores the rows of a range of keys; where they fail, halves of them, until the rows that fail are alone.
CREATE FUNCTION predict_internal.score_range(job predict.job, statements jsonb, run bigint, beyond jsonb, up_to jsonb, rows bigint, errors_left bigint, OUT scored bigint, OUT failed bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    condition text := predict_internal.key_condition(job, 's', '>', beyond) || ' AND ' || predict_internal.key_condition(job, 's', '<=', up_to);
    state text; message text; detail text;
    middle jsonb;
    part record;
BEGIN
    failed := 0;
    BEGIN
        scored := predict_internal.execute_under(job.search_path, predict_internal.chunk_statement(job, statements, beyond, up_to));
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
        PERFORM predict_internal.put_error(run, up_to, state, message, nullif(detail, ''), 0);
        failed := 1;
        RETURN;
    END IF;
    middle := predict_internal.answer_under(job.search_path, (statements->'middle'->>0) || condition || (statements->'middle'->>1) || (rows / 2 - 1) || (statements->'middle'->>2));
    IF middle IS NULL OR middle = up_to THEN
        -- Rows have gone meanwhile, or the rest has one key.
        SELECT * INTO part FROM predict_internal.score_range(job, statements, run, beyond, up_to, 1, errors_left);
        scored := part.scored;
        failed := part.failed;
        RETURN;
    END IF;
    SELECT * INTO part FROM predict_internal.score_range(job, statements, run, beyond, middle, rows / 2, errors_left);
    scored := part.scored;
    failed := part.failed;
    SELECT * INTO part FROM predict_internal.score_range(job, statements, run, middle, up_to, rows - rows / 2, errors_left - failed);
    scored := scored + part.scored;
    failed := failed + part.failed;
END $$;

CREATE PROCEDURE predict.run_job(name text) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    j predict.job;
    version integer;
    statements jsonb;
    run bigint;
    beyond jsonb; up_to jsonb; answer jsonb;
    rows bigint; scored bigint; failed bigint; deleted bigint;
    failed_before bigint := 0;
    condition text;
    ended boolean := false;
    all_failed bigint;
    checks text;
    state text; message text; detail text; hint text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    IF NOT predict_internal.may_commit() THEN
        RAISE invalid_transaction_termination USING MESSAGE = 'predict.run_job() cannot commit here',
            DETAIL = 'It commits each chunk. PostgreSQL does not let it in a transaction block, in a function, or in a string of several statements.',
            HINT = 'Send the CALL as a statement of its own; a pg_cron job has it as its only command. ALTER ROLE .. SET gives the role that runs it settings.';
    END IF;
    j := predict_internal.own_job(name);
    PERFORM predict_internal.must_lock(j);
    BEGIN
        -- Again, now that nobody else changes it.
        j := predict_internal.own_job(name);
        version := predict.version_of(j.model);
        statements := predict_internal.job_statements(j, version);
        IF j.reached_version IS DISTINCT FROM version THEN
            j.reached := NULL;
        END IF;
        beyond := j.reached;
        -- The lock is ours: who else was running it has ended without a word.
        run := predict_internal.put_run(j.id, version, beyond IS NOT NULL);
    EXCEPTION WHEN query_canceled OR OTHERS THEN
        PERFORM predict_internal.unlock_job(j.id);
        RAISE;
    END;
    COMMIT;
    WHILE NOT ended LOOP
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        state := NULL;
        BEGIN
            PERFORM set_config('datestyle', 'ISO', true), set_config('intervalstyle', 'postgres', true),
                    set_config('extra_float_digits', '1', true), set_config('bytea_output', 'hex', true);
            -- Golden rows are asked again where another ONNX Runtime answered them last, or this version never did.
            IF checks IS NULL THEN
                checks := '';
                IF EXISTS (SELECT FROM predict.check_set c WHERE c.model = predict.model_of(j.model)
                              AND NOT EXISTS (SELECT FROM predict.check_result r WHERE (r.model, r.version, r.name) = (c.model, version, c.name) AND r.passed AND r.runtime = predict.runtime())) THEN
                    checks := coalesce((SELECT string_agg(f, ' ') FROM predict_internal.check_failures(format('%s@%s', predict.model_of(j.model), version)) f), '');
                    IF checks <> '' THEN
                        RAISE check_violation USING MESSAGE = format('version %s of model "%s" fails its checks', version, predict.model_of(j.model)), DETAIL = checks,
                            HINT = 'predict.check() shows the row that differs most. If the difference is acceptable, add the check again with a larger tolerance.';
                    END IF;
                    checks := '';
                END IF;
                rows := predict_internal.answer_under(j.search_path, statements->>'nulls')::bigint;
                IF rows > 0 THEN
                    PERFORM predict_internal.put_error(run, 'null', '22004', format('%s rows of the source have a NULL in their key, and are not scored', rows), NULL, rows);
                    RAISE WARNING USING MESSAGE = format('%s rows of the source of job "%s" have a NULL in their key, and are not scored', rows, j.name);
                END IF;
            END IF;
            answer := predict_internal.answer_under(j.search_path, (statements->'boundary'->>0) || predict_internal.key_condition(j, 's', '>', beyond) || (statements->'boundary'->>1));
            up_to := answer->0;
            rows := coalesce((answer->1)::bigint, 0);
            scored := 0;
            failed := 0;
            deleted := 0;
            ended := up_to IS NULL;
            IF NOT ended THEN
                SELECT * INTO scored, failed FROM predict_internal.score_range(j, statements, run, beyond, up_to, rows, coalesce((j.options->>'max_errors')::bigint, 100) - failed_before);
                failed_before := failed_before + failed;
            END IF;
            IF (j.options->>'delete_missing')::boolean THEN
                deleted := predict_internal.execute_under(j.search_path, (statements->'delete'->>0) || predict_internal.key_condition(j, 's', '>', beyond) || ' AND ' || predict_internal.key_condition(j, 's', '<=', up_to)
                    || (statements->'delete'->>1) || predict_internal.key_condition(j, 't', '>', beyond) || ' AND ' || predict_internal.key_condition(j, 't', '<=', up_to));
            END IF;
            all_failed := predict_internal.put_chunk(run, up_to, rows, scored, failed, deleted);
            IF all_failed IS NULL THEN
                RAISE undefined_object USING MESSAGE = format('job "%s" was dropped while it ran', j.name);
            END IF;
            IF all_failed = 1 THEN
                SELECT e.sqlstate, e.message INTO state, message FROM predict.job_error e WHERE e.run = run ORDER BY e.id LIMIT 1;
                RAISE EXCEPTION USING ERRCODE = state, MESSAGE = format('no row of job "%s" could be scored: %s', j.name, message), HINT = 'The view predict.job_errors shows why, row by row.';
            END IF;
            beyond := up_to;
        EXCEPTION WHEN query_canceled OR OTHERS THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        END;
        IF state IS NOT NULL THEN
            PERFORM predict_internal.put_failure(run, concat_ws(': ', message, nullif(detail, '')));
            COMMIT;
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
            PERFORM predict_internal.unlock_job(j.id);
            RAISE EXCEPTION USING ERRCODE = state, MESSAGE = message, DETAIL = coalesce(nullif(detail, ''), format('The run has reached %s.', coalesce(beyond::text, 'nothing yet'))),
                HINT = coalesce(nullif(hint, ''), 'The chunks before are kept: the next predict.run_job() goes on behind them.');
        END IF;
        COMMIT;
    END LOOP;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    PERFORM predict_internal.forget_runs(j.id, coalesce((j.options->>'keep_runs')::integer, 100));
    COMMIT;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    PERFORM predict_internal.unlock_job(j.id);
END $$;
COMMENT ON PROCEDURE predict.run_job(text) IS
    'run a job of the caller''s: score its source chunk by chunk, committing each; goes on behind the last chunk of a run that did not end. Not inside a transaction block';
