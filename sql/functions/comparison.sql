-- Compares the rows of a job with the baseline of its model: histograms, categories, drift.

-- Returns the shares of two sets of numbers in the same bins; a set is values with their counts.
-- Bins go from the half per cent below to the half per cent above of both sets, and the outermost
-- take what is beyond. Whole numbers that are close together get a bin each. NULL if the first set
-- has no finite value, or if the span is more than a number holds.
CREATE FUNCTION predict_internal.bin_numbers(base_values float8[], base_counts bigint[],
                                    now_values float8[], now_counts bigint[]) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH value AS MATERIALIZED (
        SELECT x, n::float8 AS base, 0::float8 AS now FROM unnest(base_values, base_counts) u(x, n)
         WHERE x <> 'NaN'
         UNION ALL
        SELECT x, 0, n FROM unnest(now_values, now_counts) u(x, n) WHERE x <> 'NaN'
    ), placed AS (
        SELECT x, sum(base) OVER upward AS base, sum(base) OVER () AS bases,
               sum(now) OVER upward AS now, sum(now) OVER () AS nows
          FROM value WHERE abs(x) < 'Infinity' WINDOW upward AS (ORDER BY x)
    ), span AS (
        SELECT least(min(x) FILTER (WHERE base > bases * 0.005),
                     min(x) FILTER (WHERE now > nows * 0.005)) AS low,
               greatest(min(x) FILTER (WHERE base >= bases * 0.995),
                        min(x) FILTER (WHERE now >= nows * 0.995)) AS high,
               min(x) AS first, max(x) AS last,
               -- Halves, because a difference may overflow.
               bool_and(x = trunc(x)) AND max(x) / 2 - min(x) / 2 <= 15 AS whole
          FROM placed HAVING max(bases) > 0
    ), step AS (
        -- 1, 2 or 5 times a power of ten, so that there are about 16 bins.
        SELECT span.*, CASE WHEN whole THEN 1
                            WHEN high = low THEN greatest(abs(low) / 10, 1e-300)
                            WHEN raw < 1.5 * power THEN power WHEN raw < 3.5 * power THEN 2 * power
                            WHEN raw < 7.5 * power THEN 5 * power ELSE 10 * power END AS step
          FROM span, LATERAL (SELECT CASE WHEN high > low THEN (high - low) / 16 ELSE 1 END) r(raw),
               LATERAL (SELECT power(10::float8, floor(log(raw)))) p(power)
         WHERE high / 4 - low / 4 <= 4e307
    ), start AS (
        SELECT high, first, last, step, whole,
               CASE WHEN whole THEN first - 0.5 ELSE floor(low / step) * step END AS low FROM step
    ), bin AS (
        SELECT start.*, CASE WHEN whole THEN last - first + 1
                             -- A last bin that begins where all values end is not needed.
                             WHEN n > 1 AND low + (n - 1) * step >= greatest(high, last) THEN n - 1
                             ELSE n END::integer AS bins
          FROM start, LATERAL (SELECT least(floor((high - low) / step * 1.000001) + 1, 60)) c(n)
    ), filled AS (
        SELECT least(greatest(width_bucket(x, low, low + bins * step, bins), 1), bins) AS i,
               sum(base) AS base, sum(now) AS now
          FROM value, bin GROUP BY 1
    ), total AS (
        SELECT nullif(sum(base), 0) AS base, nullif(sum(now), 0) AS now FROM value
    )
    SELECT jsonb_build_object('low', low, 'step', step, 'whole', whole,
               'open', first < low OR last > low + bins * step, 'labels', NULL,
               'base', (SELECT jsonb_agg(coalesce(f.base, 0) / t.base ORDER BY i)
                          FROM total t, generate_series(1, bins) i LEFT JOIN filled f USING (i)),
               'now', (SELECT jsonb_agg(coalesce(f.now, 0) / t.now ORDER BY i)
                         FROM total t, generate_series(1, bins) i LEFT JOIN filled f USING (i)
                        HAVING max(t.now) > 0))
      FROM bin
$$;

-- Returns the shares of the ten largest categories of two sets, and of all others together; the
-- rest of a set counts the categories that are not listed. NULL if the first set is empty.
CREATE FUNCTION predict_internal.rank_categories(base_values text[], base_counts bigint[], base_rest bigint,
                                        now_values text[], now_counts bigint[], now_rest bigint)
    RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH value AS (
        SELECT x COLLATE "C" AS x, sum(base) AS base, sum(now) AS now
          FROM (SELECT x, n::float8, 0::float8 FROM unnest(base_values, base_counts) u(x, n)
                 UNION ALL
                SELECT x, 0, n FROM unnest(now_values, now_counts) u(x, n)) v(x, base, now)
         GROUP BY 1
    ), total AS (
        SELECT nullif(coalesce(sum(base), 0) + base_rest, 0) AS base,
               nullif(sum(now) + coalesce(now_rest, 0), 0) AS now FROM value
    ), share AS (
        SELECT x, v.base / t.base AS base, v.now / t.now AS now FROM value v, total t
    ), ranked AS (
        SELECT *, row_number() OVER (ORDER BY greatest(base, now) DESC, x) AS place,
               count(*) OVER () AS size FROM share
    ), kept AS (
        -- What is left is one line more, unless it is just one category.
        SELECT x, base, now, row_number() OVER (ORDER BY base DESC, now DESC, x) AS n
          FROM ranked WHERE place <= CASE WHEN size <= 11 THEN 11 ELSE 10 END
    ), line AS (
        SELECT x, base, now, n FROM kept
         UNION ALL
        SELECT 'all others', greatest(1 - sum(base), 0), greatest(1 - sum(now), 0), 99
          FROM kept HAVING 1 - sum(base) > 1e-9 OR 1 - sum(now) > 1e-9
    )
    SELECT jsonb_build_object('labels', jsonb_agg(l.x ORDER BY n), 'open', false,
               'base', jsonb_agg(l.base ORDER BY n),
               'now', CASE WHEN t.now > 0 THEN jsonb_agg(l.now ORDER BY n) END)
      FROM line l, total t WHERE t.base > 0 GROUP BY t.now
$$;

-- Returns how each line of a model's baseline is distributed, and the same line of the rows that a
-- plan has staged, if there is a plan.
CREATE FUNCTION predict_internal.histograms(model text, plan jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    most_categories CONSTANT integer := 1000;
    result jsonb := '[]';
    b predict.baseline;
    source text;
    shares jsonb;
    numbers float8[];
    categories text[];
    counts bigint[];
    rest bigint;
BEGIN
    FOR b IN SELECT * FROM predict.baseline x WHERE x.model = histograms.model
              ORDER BY x.kind, x.position, x.name LOOP
        numbers := NULL;
        categories := NULL;
        counts := NULL;
        rest := NULL;
        -- The expression over the staged rows; a map is one line for each of its keys.
        SELECT CASE l->>'type' WHEN 'map'
                    THEN format('(%s->>%L)', l->>'source', substr(b.name, length(l->>'name') + 2,
                                length(b.name) - length(l->>'name') - 2))
                    ELSE l->>'source' END
          INTO source FROM jsonb_array_elements(plan->'lines') l
         WHERE l->>'kind' = b.kind
           AND (l->>'name' = b.name AND l->>'type' = b.type
                OR l->>'type' = 'map' AND starts_with(b.name, (l->>'name') || '[')) LIMIT 1;
        IF b.type = 'number' THEN
            IF source IS NOT NULL THEN
                EXECUTE format('SELECT array_agg(x), array_agg(n)
                                  FROM (SELECT (%s)::float8 AS x, count(*) AS n FROM pg_temp.%I
                                         GROUP BY 1) v WHERE x IS NOT NULL', source, plan->>'rows')
                   INTO numbers, counts;
            END IF;
            shares := predict_internal.bin_numbers(b.numbers, b.counts, numbers, counts);
        ELSE
            IF source IS NOT NULL THEN
                EXECUTE format('SELECT array_agg(x) FILTER (WHERE place <= $1),
                                       array_agg(n) FILTER (WHERE place <= $1),
                                       sum(n) FILTER (WHERE place > $1)
                                  FROM (SELECT x, count(*),
                                               row_number() OVER (ORDER BY count(*) DESC, x)
                                          FROM (SELECT (%s)::text COLLATE "C" AS x
                                                  FROM pg_temp.%I) r
                                         WHERE x IS NOT NULL GROUP BY x) v(x, n, place)',
                               source, plan->>'rows')
                   INTO categories, counts, rest USING most_categories;
            END IF;
            shares := predict_internal.rank_categories(b.categories, b.counts, b.rest,
                                              categories, counts, rest);
        END IF;
        IF shares IS NOT NULL THEN
            result := result || (jsonb_build_object('kind', b.kind, 'name', b.name) || shares);
        END IF;
    END LOOP;
    RETURN result;
END $$;

-- Compares the staged rows with the baseline, and drops them. Rows that a job kept lack the outputs
-- that it does not keep.
CREATE FUNCTION predict_internal.compare_staged(plan jsonb, of_job text) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    histograms jsonb := predict_internal.histograms(plan->>'model', plan);
BEGIN
    RETURN (SELECT jsonb_build_object('job', of_job, 'part', coalesce(plan->'part', '1'),
                       'histograms', histograms, 'drift', jsonb_agg(to_jsonb(d)),
                       'rows', max(d.rows), 'baseline_rows', max(d.baseline_rows),
                       'baseline_version', (SELECT max(b.version) FROM predict.baseline b
                                             WHERE b.model = plan->>'model'))
              FROM predict_internal.judge_drift(plan, false) d
             WHERE of_job IS NULL OR d.kind = 'feature' OR d.rows IS NOT NULL);
END $$;

-- Stages the rows of a job of the caller's own: features from its source as it is now, outputs as
-- the job wrote them into its target. The model does not run. Of more than about a million rows one
-- in so many is taken, chosen by the hash of its key.
CREATE FUNCTION predict_internal.stage_job(reference text, job predict.job) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    most_rows CONSTANT integer := 1000000;
    plan jsonb := predict_internal.plan_stage(reference, job.source, 'drift', false);
    statement text := predict_internal.shape_statement(plan);
    target regclass := to_regclass(job.target);
    part integer := ceil(greatest((SELECT c.reltuples FROM pg_class c WHERE c.oid = target),
                                  1)::float8 / most_rows);
    lines jsonb;
BEGIN
    PERFORM pg_catalog.set_config('search_path', job.search_path, true);
    EXECUTE statement;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    plan := predict_internal.plan_lines(plan);
    -- Which column of the target holds what: an output, or one value of it.
    WITH output AS (
        SELECT o.name, o.position FROM predict.model_outputs o
         WHERE (o.model, o.version) = (plan->>'model', (plan->>'version')::integer)
    ), kept AS (
        SELECT e.key AS name, e.value AS of_output
          FROM jsonb_each_text(job.options->'columns') e
         UNION ALL
        SELECT o.name, o.name FROM output o WHERE NOT job.options ? 'columns'
    ), line AS (
        SELECT e.l, e.n, o.name AS output, k.name AS kept, k.of_output,
               row_number() OVER (
                   PARTITION BY e.n, CASE WHEN e.l->>'type' = 'map' THEN k.of_output END
                   ORDER BY k.of_output = o.name, k.name) AS choice
          FROM jsonb_array_elements(plan->'lines') WITH ORDINALITY e(l, n)
          LEFT JOIN output o ON e.l->>'kind' = 'output'
                            AND o.position = (e.l->>'position')::integer
          LEFT JOIN kept k ON e.l->>'kind' = 'output'
                          AND (k.of_output IN (e.l->>'name', o.name)
                               OR e.l->>'type' = 'map' AND starts_with(k.of_output, o.name || '['))
    ), chosen AS (
        SELECT l.*, CASE WHEN l->>'kind' = 'feature' OR of_output = output THEN l
                         ELSE l || jsonb_build_object(
                             'source', format('%I', 'value ' || n || ' ' || md5(of_output))) END
                    || CASE WHEN l->>'type' = 'map' AND of_output <> output
                            THEN jsonb_build_object('type', 'number', 'name', of_output)
                            ELSE '{}' END AS changed
          FROM line l WHERE l->>'kind' = 'feature' OR kept IS NOT NULL AND choice = 1
    ), planned AS (
        SELECT p->>'column' AS "column", p->>'type' AS type, p->>'as' AS "as"
          FROM jsonb_array_elements(plan->'columns') p
    ), item AS (
        SELECT format('predict_source.%I AS %I', p."column", p."as") AS item
          FROM planned p WHERE p."as" LIKE 'feature %'
         UNION
        SELECT format('predict_target.%I::%s AS %I', c.kept, p.type, p."as")
          FROM chosen c JOIN planned p ON p."as" = 'output ' || (c.l->>'position')
         WHERE c.of_output = c.output
         UNION
        SELECT format('predict_target.%I AS %s', c.kept, c.changed->>'source')
          FROM chosen c WHERE c.of_output <> c.output
    )
    SELECT (SELECT jsonb_agg(c.changed ORDER BY c.n) FROM chosen c),
           (SELECT string_agg(i.item, ', ') FROM item i) INTO lines, statement;
    plan := plan || jsonb_build_object('lines', lines, 'part', part);
    statement := (
        SELECT format(E'CREATE TEMPORARY TABLE pg_temp.%I ON COMMIT DROP AS SELECT %s FROM (\n%s\n)'
                       ' AS predict_source JOIN %s AS predict_target ON %s WHERE %s AND %s',
                      plan->>'rows', statement, plan->>'query', job.target,
                      string_agg(format('predict_target.%I = predict_source.%1$I', k), ' AND '),
                      CASE WHEN EXISTS (SELECT FROM pg_attribute a
                                         WHERE a.attrelid = target AND a.attname = 'model_version')
                           THEN format('predict_target.model_version = %s', plan->>'version')
                           ELSE 'true' END,
                      CASE WHEN part > 1
                           THEN format('pg_catalog.mod(pg_catalog.abs(pg_catalog.hashtext('
                                       'pg_catalog.concat_ws('','', %s))::bigint), %s) = 0',
                                       string_agg(format('predict_target.%I', k), ', '), part)
                           ELSE 'true' END)
          FROM unnest(job.key) k);
    PERFORM pg_catalog.set_config('search_path', job.search_path, true);
    EXECUTE statement;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    RETURN plan;
END $$;

-- Returns the job whose rows stand for now: the caller's own that last succeeded with the model.
CREATE FUNCTION predict_internal.job_of(model text) RETURNS predict.job
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT j FROM predict.job j JOIN predict.job_run r ON r.job = j.id AND r.status = 'succeeded'
     WHERE j.owner = quote_ident(current_user)::regrole
       AND predict.model_of(j.model) = job_of.model ORDER BY r.finished DESC LIMIT 1
$$;

-- Returns what there is to be compared with the baseline without a query; `missing` names what
-- keeps it from being compared.
CREATE FUNCTION predict_internal.compare_job(reference text) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    of_model text := predict.model_of(reference);
    job predict.job := predict_internal.job_of(of_model);
    missing jsonb;
BEGIN
    IF NOT predict.owns_model(of_model) THEN
        RETURN '{"missing": "owner"}';
    ELSIF NOT EXISTS (SELECT FROM predict.baseline b WHERE b.model = of_model) THEN
        RETURN jsonb_build_object('missing', 'baseline', 'source', job.source);
    ELSIF job.id IS NULL THEN
        missing := '{"missing": "job"}';
    ELSIF pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean THEN
        missing := '{"missing": "tables"}';
    ELSE
        BEGIN
            RETURN predict_internal.compare_staged(predict_internal.stage_job(reference, job), job.name);
        EXCEPTION WHEN OTHERS THEN
            missing := jsonb_build_object('missing', 'rows', 'job', job.name, 'error', SQLERRM);
        END;
    END IF;
    BEGIN
        RETURN missing || jsonb_build_object('histograms', predict_internal.histograms(of_model, NULL));
    EXCEPTION WHEN OTHERS THEN
        RETURN missing || jsonb_build_object('unreadable', SQLERRM);
    END;
END $$;
