-- Drift: what a model's features and outputs looked like when it was judged good, kept as its baseline, against what they look
-- like now.
--
-- Words: a line is one feature or one output, or one element of an output that has a few; a line is of numbers or of
-- categories. Its summary is a row of predict.baseline. Rows are scored and summarised by one rule, predict_internal.stage() and
-- predict_internal.summarise(), for the baseline as for what is compared with it.
--
-- Everything runs with the caller's rights; row level security shows a baseline to the owners of its model alone. The caller's
-- query runs under the caller's search_path, in predict_internal.stage(), which calls by qualified names only and uses no operator;
-- everything else is in functions that set search_path. They turn JIT off, which costs more here than it saves.

-- Keeps a line of a model's baseline in the place of what it had.
CREATE FUNCTION predict_internal.put_baseline(line predict.baseline) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.put_baseline(caller oid, line predict.baseline) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM predict_internal.must_own(caller, line.model);
    line.created_at := now();
    line.created_by := pg_get_userbyid(caller);
    -- Another session may be doing the same: the later one's stays.
    INSERT INTO predict.baseline AS b SELECT line.*
    ON CONFLICT ON CONSTRAINT baseline_pkey DO UPDATE
        SET (version, position, type, rows, nulls, nans, exact, numbers, categories, counts, rest, created_at, created_by)
          = (excluded.version, excluded.position, excluded.type, excluded.rows, excluded.nulls, excluded.nans, excluded.exact, excluded.numbers,
             excluded.categories, excluded.counts, excluded.rest, excluded.created_at, excluded.created_by);
    RETURN line.rows;
END $$;

-- Forgets the lines of a model's baseline that are none of these.
CREATE FUNCTION predict_internal.forget_baseline(model text, kinds text[], names text[]) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.forget_baseline(caller oid, model text, kinds text[], names text[]) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    PERFORM predict_internal.must_own(caller, model);
    DELETE FROM predict.baseline b WHERE b.model = model AND (b.kind, b.name) NOT IN (SELECT u.kind, u.name FROM unnest(kinds, names) u(kind, name));
    RETURN 0;
END $$;
REVOKE EXECUTE ON FUNCTION predict_internal.put_baseline(oid, predict.baseline), predict_internal.forget_baseline(oid, text, text[], text[]) FROM PUBLIC;

CREATE VIEW predict.baselines WITH (security_invoker = true) AS
SELECT b.model, b.version, b.kind, b.name, b.type, b.rows, b.nulls, b.nans, b.exact, b.created_at, b.created_by
  FROM predict.baseline b;
COMMENT ON VIEW predict.baselines IS 'one row a feature or output whose values are kept as the baseline of a model: of the models that the caller owns';
GRANT SELECT ON predict.baselines TO PUBLIC;

-- Checks what predict.set_baseline() and predict.drift() are given and says what both will do, as JSON: the version, the names of
-- two temporary tables that nobody else has, and the query without the semicolons at its end.
CREATE FUNCTION predict_internal.plan_stage(model text, query text, caller text, warn boolean) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    of_model text := predict.model_of(model);
    unique_part text := replace(gen_random_uuid()::text, '-', '');
BEGIN
    IF model IS NULL OR query IS NULL OR warn IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = format('no argument of predict.%s() may be NULL', caller);
    END IF;
    PERFORM predict_internal.must_own(of_model, 'measure drift of');
    IF caller = 'drift' AND NOT EXISTS (SELECT FROM predict.baseline b WHERE b.model = of_model) THEN
        RAISE undefined_object USING MESSAGE = format('model "%s" has no baseline', of_model),
            HINT = 'Keep one with predict.set_baseline().';
    END IF;
    RETURN jsonb_build_object('model', of_model, 'version', predict.version_of(model), 'query', regexp_replace(query, '[;\s]+$', ''),
                              'shape', 'predict_shape_' || unique_part, 'rows', 'predict_rows_' || unique_part);
END $$;

-- The statement that makes an empty table with the columns of the query. It does not run the query.
CREATE FUNCTION predict_internal.shape_statement(plan jsonb) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN format(E'CREATE TEMPORARY TABLE pg_temp.%I ON COMMIT DROP AS SELECT * FROM (\n%s\n) AS query WITH NO DATA', plan->>'shape', plan->>'query');
END $$;

-- Adds to the plan what is kept of the scored rows: `columns`, each with its name and type among what predictions() gives, and
-- `lines`, each with an expression over these columns. The columns that a model takes are found as predict_batch() finds them:
-- by the option "features", or else by the names of its inputs; with a tokenizer, "text" and "text_pair". Numbers, booleans,
-- texts and enums make one line; arrays of a fixed shape one for each of at most 16 elements; whatever else there is, none.
-- Outputs of a float type are numbers; labels and other integers, booleans and strings are categories.
CREATE FUNCTION predict_internal.plan_lines(plan jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    most_elements CONSTANT integer := 16;
    shape regclass := format('pg_temp.%I', plan->>'shape');
    columns jsonb;
    lines jsonb;
BEGIN
    WITH input AS (
        SELECT i.* FROM predict.model_inputs i WHERE i.model = plan->>'model' AND i.version = (plan->>'version')::integer
    ), option AS (
        SELECT CASE jsonb_typeof(m.options->'features') WHEN 'array' THEN m.options->'features' END AS features,
               coalesce(m.options->'constants', '{}') AS constants,
               -- Whether there is a tokenizer does not show; a query for such a model has no tokens.
               EXISTS (SELECT FROM input WHERE input.name = 'input_ids')
                   AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = shape AND lower(a.attname) = 'input_ids') AS takes_text
          FROM predict.models m WHERE m.name = plan->>'model' AND m.version = (plan->>'version')::integer
    ), wanted AS (
        SELECT f.name, f.n AS position, i.type, i.row_shape
          FROM option o, jsonb_array_elements_text(o.features) WITH ORDINALITY f(name, n)
          -- Features fill the only input, one value each.
          LEFT JOIN (SELECT min(input.type) AS type, '{}'::integer[] AS row_shape FROM input) i ON true
         UNION ALL
        SELECT t.name, t.n, 'string', '{}' FROM option o, unnest('{text,text_pair}'::text[]) WITH ORDINALITY t(name, n)
         WHERE o.takes_text AND o.features IS NULL
         UNION ALL
        SELECT i.name, 2 + i.position, i.type, i.row_shape FROM option o, input i
         WHERE (o.features IS NULL OR o.takes_text) AND NOT o.constants ? i.name
    ), found AS (
        -- Exactly, or else ignoring case where that is clear.
        SELECT w.name, w.position, w.row_shape, w.type AS input_type, a.attname AS column_name,
               format_type(a.atttypid, a.atttypmod) AS column_type, t.typcategory AS category,
               -- An output goes before a column of its name: then the column travels under another one.
               CASE WHEN w.position > min(w.position) OVER (PARTITION BY a.attname)
                         OR EXISTS (SELECT FROM predict.model_outputs o
                                     WHERE o.model = plan->>'model' AND o.version = (plan->>'version')::integer AND lower(o.name) = lower(a.attname))
                    THEN 'pg_predict feature ' || w.position ELSE a.attname END AS name_back
          FROM wanted w
          JOIN pg_attribute a ON a.attrelid = shape AND a.attnum > 0
               AND a.attname = coalesce((SELECT e.attname FROM pg_attribute e WHERE e.attrelid = shape AND e.attnum > 0 AND e.attname = w.name),
                                        (SELECT min(e.attname::text) FROM pg_attribute e
                                          WHERE e.attrelid = shape AND e.attnum > 0 AND lower(e.attname) = lower(w.name) HAVING count(*) = 1))
          JOIN pg_type t ON t.oid = a.atttypid
    ), output AS (
        SELECT o.name, o.position, o.type, coalesce(o.row_shape, '{}') AS row_shape,
               CASE WHEN o.type LIKE 'map(%' THEN 'jsonb' ELSE e.sql_type || CASE WHEN e.width > 1 THEN '[]' ELSE '' END END AS column_type,
               CASE WHEN o.type LIKE 'map(%' THEN NULL ELSE e.width END AS width
          FROM predict.model_outputs o,
               LATERAL (SELECT CASE WHEN o.type IN ('float16', 'bfloat16', 'float32') THEN 'real' WHEN o.type = 'float64' THEN 'float8'
                                    WHEN o.type = 'bool' THEN 'boolean' WHEN o.type = 'string' THEN 'text' WHEN o.type = 'uint64' THEN 'numeric'
                                    WHEN o.type ~ '^u?int[0-9]+$' THEN 'bigint' END AS sql_type,
                               predict_internal.elements_of(o.row_shape) AS width) e
         WHERE o.model = plan->>'model' AND o.version = (plan->>'version')::integer
           AND octet_length(o.name) < 64
           -- What has more dimensions than an array may have is JSON.
           AND (o.type LIKE 'map(%' OR e.sql_type IS NOT NULL AND (e.width = 1 OR e.width <= most_elements AND cardinality(o.row_shape) <= 6))
    ), line AS (
        SELECT 'feature' AS kind, f.name, f.position, 0 AS element, CASE f.category WHEN 'N' THEN 'number' ELSE 'category' END AS type,
               format('%I', 'feature ' || f.position) AS source
          FROM found f WHERE f.category IN ('N', 'B', 'S', 'E')
         UNION ALL
        SELECT 'feature', format('%s[%s]', f.name, n), f.position, n, CASE WHEN f.input_type IN ('string', 'bool') THEN 'category' ELSE 'number' END,
               format('(SELECT e.value FROM unnest(%I) WITH ORDINALITY e(value, n) WHERE e.n = %s)', 'feature ' || f.position, n)
          FROM found f, LATERAL (SELECT predict_internal.elements_of(f.row_shape) AS width) e, generate_series(1, CASE WHEN e.width <= most_elements THEN e.width END) n
         WHERE f.category = 'A'
         UNION ALL
        SELECT 'output', o.name || CASE WHEN o.width > 1 THEN format('[%s]', n) ELSE '' END, o.position, n,
               CASE WHEN o.type LIKE '%float%' THEN 'number' ELSE 'category' END,
               format('%I', 'output ' || o.position) || CASE WHEN o.width > 1 THEN predict_internal.subscript(o.row_shape, n) ELSE '' END
          FROM output o, generate_series(1, o.width) n
         UNION ALL
        SELECT 'output', o.name, o.position, 0, 'map', format('%I', 'output ' || o.position) FROM output o WHERE o.width IS NULL
    )
    SELECT (SELECT coalesce(jsonb_agg(c ORDER BY c->>'as'), '[]')
              FROM (SELECT jsonb_build_object('name', f.name_back, 'column', f.column_name, 'type', f.column_type, 'as', 'feature ' || f.position) FROM found f
                     WHERE EXISTS (SELECT FROM line l WHERE (l.kind, l.position) = ('feature', f.position))
                     UNION ALL
                    SELECT jsonb_build_object('name', o.name, 'type', o.column_type, 'as', 'output ' || o.position) FROM output o) u(c)),
           (SELECT coalesce(jsonb_agg(l ORDER BY l.kind, l.position, l.element), '[]') FROM line l)
      INTO columns, lines;
    EXECUTE format('DROP TABLE pg_temp.%I', plan->>'shape');
    IF lines = '[]' THEN
        RAISE feature_not_supported USING MESSAGE = format('model "%s" has nothing that drift could be seen in', plan->>'model'),
            DETAIL = 'Its features and outputs are arrays of many values.';
    END IF;
    RETURN plan || jsonb_build_object('columns', columns, 'lines', lines);
END $$;

-- The number of values in a row's shape; NULL where it differs by row.
CREATE FUNCTION predict_internal.elements_of(row_shape integer[]) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    elements bigint := 1;
    dimension integer;
BEGIN
    FOREACH dimension IN ARRAY row_shape LOOP
        IF dimension < 0 THEN
            RETURN NULL;
        END IF;
        elements := least(elements * dimension, 2147483647);
    END LOOP;
    RETURN elements;
END $$;

-- The subscripts of the nth value, in row-major order, of an array of that shape.
CREATE FUNCTION predict_internal.subscript(row_shape integer[], n integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rest integer := n - 1;
    subscripts text := '';
BEGIN
    FOR i IN REVERSE cardinality(row_shape)..1 LOOP
        subscripts := format('[%s]', rest % row_shape[i] + 1) || subscripts;
        rest := rest / row_shape[i];
    END LOOP;
    RETURN subscripts;
END $$;

-- The statement that runs the query, scores its rows, in a parallel plan where there is one, and keeps the plan's columns.
CREATE FUNCTION predict_internal.score_statement(plan jsonb) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    RETURN (SELECT format(E'CREATE TEMPORARY TABLE pg_temp.%I ON COMMIT DROP AS SELECT %s FROM @extschema@.predictions(('
                           'SELECT predict_internal.batch_of(%L, query.*) FROM (SELECT query.*%s FROM (\n%s\n) AS query) AS query)) AS p(%s)',
                          plan->>'rows', string_agg(format('p.%I AS %I', c->>'name', c->>'as'), ', ' ORDER BY n),
                          format('%s@%s', plan->>'model', plan->>'version'),
                          coalesce(string_agg(format(', query.%I AS %I', c->>'column', c->>'name'), '' ORDER BY n) FILTER (WHERE c->>'column' <> c->>'name'), ''),
                          plan->>'query', string_agg(format('%I %s', c->>'name', c->>'type'), ', ' ORDER BY n))
              FROM jsonb_array_elements(plan->'columns') WITH ORDINALITY e(c, n));
END $$;

-- Runs the query and scores its rows; the plan that it gives says where they are. Without a search_path of its own.
CREATE FUNCTION predict_internal.stage(model text, query text, caller text, warn boolean) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    plan pg_catalog.jsonb := predict_internal.plan_stage(model, query, caller, warn);
BEGIN
    EXECUTE predict_internal.shape_statement(plan);
    plan := predict_internal.plan_lines(plan);
    EXECUTE predict_internal.score_statement(plan);
    RETURN plan;
END $$;

-- Summarises the staged rows, a line at a time, and drops them. Of categories the 1,000 most frequent are kept, and with them those
-- that the baseline has, if it is what they will be compared with.
CREATE FUNCTION predict_internal.summarise(plan jsonb, beside_baseline boolean) RETURNS SETOF predict.baseline
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
    most_numbers CONSTANT integer := 100000;
    most_categories CONSTANT integer := 1000;
    most_keys CONSTANT integer := 16;
    summary predict.baseline;
    lines jsonb := '[]';
    line jsonb;
    keys text[];
    known text[];
BEGIN
    summary.model := plan->>'model';
    summary.version := plan->>'version';
    summary.created_at := now();
    summary.created_by := current_user;
    EXECUTE format('SELECT count(*) FROM pg_temp.%I', plan->>'rows') INTO summary.rows;
    IF summary.rows = 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('the query for model "%s" gives no rows', plan->>'model');
    END IF;

    -- Of a map, each of its keys is a line, unless there are many.
    FOR line IN SELECT l FROM jsonb_array_elements(plan->'lines') WITH ORDINALITY e(l, n) ORDER BY n LOOP
        IF line->>'type' <> 'map' THEN
            lines := lines || line;
            CONTINUE;
        END IF;
        EXECUTE format('SELECT coalesce(array_agg(DISTINCT k COLLATE "C"), ''{}'') FROM (SELECT DISTINCT jsonb_object_keys(%s) AS k FROM pg_temp.%I LIMIT %s) keys',
                       line->>'source', plan->>'rows', most_keys + 1) INTO keys;
        IF cardinality(keys) <= most_keys THEN
            lines := lines || (SELECT coalesce(jsonb_agg(line || jsonb_build_object('type', 'number', 'name', format('%s[%s]', line->>'name', k),
                                                                                    'source', format('(%s->>%L)', line->>'source', k)) ORDER BY n), '[]')
                                 FROM unnest(keys) WITH ORDINALITY u(k, n));
        END IF;
    END LOOP;

    summary.position := 0;
    FOR line IN SELECT l FROM jsonb_array_elements(lines) WITH ORDINALITY e(l, n) ORDER BY n LOOP
        summary.kind := line->>'kind';
        summary.name := line->>'name';
        summary.type := line->>'type';
        summary.position := summary.position + 1;
        summary.numbers := NULL;
        summary.categories := NULL;
        IF summary.type = 'number' THEN
            -- Infinities are values, with a place in the order. Cumulative counts at the values that are kept are exact.
            EXECUTE format('WITH value AS MATERIALIZED (SELECT x, count(*) AS n FROM (SELECT (%s)::float8 AS x FROM pg_temp.%I) v GROUP BY x),
                                 ranked AS (SELECT x, n, (sum(n) OVER (ORDER BY x))::bigint AS place, (sum(n) OVER ())::bigint AS total, count(*) OVER () AS size
                                              FROM value WHERE x <> ''NaN''),
                                 kept AS (SELECT max(x) AS x, sum(n)::bigint AS n FROM ranked
                                           GROUP BY CASE WHEN size <= $1 THEN place ELSE (place - 1) * $1 / total END)
                            SELECT (SELECT coalesce(sum(n), 0) FROM value WHERE x IS NULL), (SELECT coalesce(sum(n), 0) FROM value WHERE x = ''NaN''),
                                   (SELECT count(*) FROM value WHERE x <> ''NaN'') <= $1,
                                   coalesce(array_agg(x ORDER BY x), ''{}''), coalesce(array_agg(n ORDER BY x), ''{}''), 0 FROM kept', line->>'source', plan->>'rows')
                INTO summary.nulls, summary.nans, summary.exact, summary.numbers, summary.counts, summary.rest USING most_numbers::bigint;
        ELSE
            known := CASE WHEN beside_baseline THEN (SELECT b.categories FROM predict.baseline b
                                                      WHERE (b.model, b.kind, b.name) = (summary.model, summary.kind, summary.name)) END;
            EXECUTE format('WITH value AS MATERIALIZED (SELECT x, count(*) AS n FROM (SELECT (%s)::text COLLATE "C" AS x FROM pg_temp.%I) v GROUP BY x),
                                 ranked AS (SELECT x, n, row_number() OVER (ORDER BY n DESC, x) AS place FROM value WHERE x IS NOT NULL)
                            SELECT (SELECT coalesce(sum(n), 0) FROM value WHERE x IS NULL), 0, count(*) FILTER (WHERE place > $1 AND x <> ALL ($2)) = 0,
                                   coalesce(array_agg(x ORDER BY place) FILTER (WHERE place <= $1 OR x = ANY ($2)), ''{}''),
                                   coalesce(array_agg(n ORDER BY place) FILTER (WHERE place <= $1 OR x = ANY ($2)), ''{}''),
                                   coalesce(sum(n) FILTER (WHERE place > $1 AND x <> ALL ($2)), 0) FROM ranked', line->>'source', plan->>'rows')
                INTO summary.nulls, summary.nans, summary.exact, summary.categories, summary.counts, summary.rest USING most_categories, coalesce(known, '{}');
        END IF;
        RETURN NEXT summary;
    END LOOP;
    EXECUTE format('DROP TABLE pg_temp.%I', plan->>'rows');
END $$;

-- Keeps the summary of the staged rows in the place of what the model had.
CREATE FUNCTION predict_internal.keep_baseline(plan jsonb) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    kinds text[] := '{}';
    names text[] := '{}';
    scored bigint;
    line predict.baseline;
BEGIN
    FOR line IN SELECT * FROM predict_internal.summarise(plan, false) LOOP
        PERFORM predict_internal.put_baseline(line);
        kinds := kinds || line.kind;
        names := names || line.name;
        scored := greatest(scored, line.rows);
    END LOOP;
    PERFORM predict_internal.forget_baseline(plan->>'model', kinds, names);
    RETURN scored;
END $$;

CREATE FUNCTION predict.set_baseline(model text, query text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN predict_internal.keep_baseline(predict_internal.stage(model, query, 'set_baseline', false));
END $$;
COMMENT ON FUNCTION predict.set_baseline(text, text) IS
    'run a query, score its rows, and keep how features and outputs are distributed as the baseline of the model; returns how many rows';

-- Population stability index and Kolmogorov-Smirnov statistic of two sets of numbers, each as rising values with their counts;
-- NULL where one of them is empty.
--
-- PSI = sum over bins of (now - base) * ln(now / base), of the shares of rows in each bin (N. Siddiqi, "Credit Risk Scorecards",
-- 2006). The bins are bounded by the baseline's deciles, (-inf, e1], (e1, e2], .., (en, inf), equal ones taken once. Deciles are
-- interpolated as percentile_cont() and numpy.quantile() do it, in the order of operations of the latter, so that a value that is
-- the bound falls on its side of it. A share of 0 is taken as 0.0001.
--
-- D = sup |F1 - F2| of the empirical distributions; the p-value is P(K > sqrt(n m / (n + m)) D) of Kolmogorov's distribution, the
-- limit for large samples (N. Smirnov, "Table for estimating the goodness of fit of empirical distributions", 1948).
CREATE FUNCTION predict_internal.compare_numbers(base_values float8[], base_counts bigint[], now_values float8[], now_counts bigint[],
                                        OUT psi float8, OUT ks float8, OUT p_value float8)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH base AS MATERIALIZED (SELECT x, n::float8 AS n FROM unnest(base_values, base_counts) u(x, n)),
         now AS MATERIALIZED (SELECT x, n::float8 AS n FROM unnest(now_values, now_counts) u(x, n)),
         total AS (SELECT (SELECT sum(n) FROM base) AS base, (SELECT sum(n) FROM now) AS now),
         ranked AS (SELECT array_agg(x ORDER BY x) AS xs, array_agg(place ORDER BY x) AS places
                      FROM (SELECT x, sum(n) OVER (ORDER BY x) AS place FROM base) r),
         decile AS (SELECT floor(d.place) AS rank, d.place - floor(d.place) AS t
                      FROM total, LATERAL (SELECT (total.base - 1) * (i / 10.0::float8) AS place FROM generate_series(1, 9) i) d),
         neighbours AS (SELECT t, xs[width_bucket(rank, places) + 1] AS a, coalesce(xs[width_bucket(rank + 1, places) + 1], xs[cardinality(xs)]) AS b
                          FROM decile, ranked),
         edge AS (SELECT DISTINCT CASE WHEN a = b OR t = 0 THEN a
                                       -- What follows would overflow.
                                       WHEN b / 2 - a / 2 > 8e307 THEN a * (1 - t) + b * t
                                       WHEN t >= 0.5 THEN b - (b - a) * (1 - t) ELSE a + (b - a) * t END AS e
                    FROM neighbours),
         -- width_bucket() has bins closed below; turned around, they are closed above.
         turned AS (SELECT array_agg(-e ORDER BY -e) AS edges FROM edge),
         bin AS (SELECT greatest(sum(b) / total.base, CASE WHEN sum(b) = 0 THEN 0.0001 ELSE 0 END) AS b,
                        greatest(sum(w) / total.now, CASE WHEN sum(w) = 0 THEN 0.0001 ELSE 0 END) AS w
                   FROM total, turned, LATERAL (SELECT width_bucket(-x, edges), n, 0 FROM base UNION ALL SELECT width_bucket(-x, edges), 0, n FROM now) v(bin, b, w)
                  GROUP BY v.bin, total.base, total.now),
         step AS (SELECT sum(sum(b)) OVER (ORDER BY x) AS b, sum(sum(w)) OVER (ORDER BY x) AS w
                    FROM (SELECT x, n AS b, 0 AS w FROM base UNION ALL SELECT x, 0, n FROM now) v GROUP BY x),
         statistic AS (SELECT max(abs(step.b / total.base - step.w / total.now)) AS d FROM step, total)
    SELECT (SELECT sum((w - b) * ln(w / b)) FROM bin), d, predict_internal.kolmogorov_sf(sqrt(total.base * total.now / (total.base + total.now)) * d)
      FROM statistic, total WHERE total.base > 0 AND total.now > 0
$$;

-- The same of two sets of categories with their counts and what is counted together as the rest. Where the baseline has a rest,
-- nobody knows which categories are in it: those that it does not list are of the rest now, too, and none is unseen.
--
-- PSI as above, each category a bin. Pearson's chi-squared test of homogeneity of the table of 2 rows and k categories, without
-- correction for continuity, with k - 1 degrees of freedom (K. Pearson, 1900).
--
-- Some categories are so rare that the baseline lacks them by chance. The share of rows to be expected in such ones is about that
-- of the categories that the baseline has once (I. J. Good, "The population frequencies of species and the estimation of population
-- parameters", 1953). `chance` is that, with one more, since none of so many is not never.
CREATE FUNCTION predict_internal.compare_categories(base_values text[], base_counts bigint[], base_rest bigint, now_values text[], now_counts bigint[], now_rest bigint,
                                           OUT psi float8, OUT chi_squared float8, OUT p_value float8, OUT unseen text[], OUT unseen_rate float8, OUT chance float8)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH pair AS MATERIALIZED (SELECT x, coalesce(b.n, 0)::float8 AS b, coalesce(w.n, 0)::float8 AS w
                                 FROM (SELECT x COLLATE "C" AS x, n FROM unnest(base_values, base_counts) u(x, n)) b
                                 FULL JOIN (SELECT x COLLATE "C" AS x, n FROM unnest(now_values, now_counts) u(x, n)) w USING (x)),
         new AS (SELECT coalesce(sum(w), 0) AS w, (array_agg(x ORDER BY w DESC, x))[1:10] AS xs FROM pair WHERE b = 0),
         cell AS MATERIALIZED (SELECT b, w FROM pair WHERE b > 0 OR base_rest = 0
                                UNION ALL
                               SELECT base_rest, now_rest + CASE WHEN base_rest > 0 THEN new.w ELSE 0 END FROM new WHERE base_rest > 0 OR now_rest > 0),
         total AS (SELECT sum(b) AS b, sum(w) AS w, count(*) AS k FROM cell),
         share AS (SELECT CASE WHEN cell.b = 0 THEN 0.0001 ELSE cell.b / total.b END AS b, CASE WHEN cell.w = 0 THEN 0.0001 ELSE cell.w / total.w END AS w
                     FROM cell, total WHERE total.b > 0 AND total.w > 0),
         chi AS (SELECT sum((cell.b - e.b) ^ 2 / e.b + (cell.w - e.w) ^ 2 / e.w) AS squared
                   FROM cell, total, LATERAL (SELECT (cell.b + cell.w) * (total.b / (total.b + total.w)) AS b,
                                                (cell.b + cell.w) * (total.w / (total.b + total.w)) AS w) e)
    SELECT (SELECT sum((w - b) * ln(w / b)) FROM share), chi.squared, predict_internal.chi_squared_sf(chi.squared, total.k - 1),
           CASE WHEN base_rest = 0 THEN coalesce(new.xs, '{}') END, CASE WHEN base_rest = 0 THEN (new.w + now_rest) / total.w END,
           ((SELECT count(*) FROM pair WHERE b = 1) + 1) / total.b
      FROM chi, total, new WHERE total.b > 0 AND total.w > 0
$$;

-- Compares the staged rows with the baseline and judges each line.
--
-- With many rows every p-value is small, so the verdict is about sizes. 0.1 and 0.25 are Siddiqi's bounds of the PSI: below, no
-- significant change; above, a major shift. The others are chosen to go with them. With few rows sizes are large by chance, so
-- the test must agree too: Kolmogorov-Smirnov's or the chi-squared test for psi and ks, the chi-squared test of the 2 x 2 table
-- of rows with and without a value for a change of the NULL rate; unseen categories must be more than chance has of them, by
-- three standard deviations.
CREATE FUNCTION predict_internal.judge_drift(plan jsonb, warn boolean)
    RETURNS TABLE (kind text, name text, type text, baseline_rows bigint, rows bigint, baseline_null_rate float8, null_rate float8, psi float8, ks float8,
                   chi_squared float8, p_value float8, unseen text[], unseen_rate float8, verdict text, reason text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_variable
DECLARE
    drift_psi CONSTANT float8 := 0.25;
    moderate_psi CONSTANT float8 := 0.1;
    drift_ks CONSTANT float8 := 0.2;
    moderate_ks CONSTANT float8 := 0.1;
    drift_nulls CONSTANT float8 := 0.1;
    moderate_nulls CONSTANT float8 := 0.02;
    drift_unseen CONSTANT float8 := 0.05;
    significant CONSTANT float8 := 0.01;
    verdicts CONSTANT text[] := '[0:2]={ok,moderate,drift}';
    doubts CONSTANT text[] := '[0:1]={" (may be chance)",""}';
    level integer;
    reasons text[];
    drifted text[] := '{}';
    sure boolean;
    chance float8;
    missing float8;
    now_missing float8;
    r record;
    b predict.baseline;
    n predict.baseline;
BEGIN
    FOR r IN SELECT base AS b, now AS n
               FROM (SELECT * FROM predict.baseline x WHERE x.model = plan->>'model') base
               FULL JOIN predict_internal.summarise(plan, true) now ON (now.kind, now.name) = (base.kind, base.name)
              ORDER BY coalesce(now.kind, base.kind), coalesce(now.position, base.position), coalesce(now.name, base.name)
    LOOP
        b := r.b;
        n := r.n;
        kind := coalesce(n.kind, b.kind);
        name := coalesce(n.name, b.name);
        type := coalesce(n.type, b.type);
        baseline_rows := b.rows;
        rows := n.rows;
        missing := b.nulls + b.nans;
        now_missing := n.nulls + n.nans;
        baseline_null_rate := missing / baseline_rows;
        null_rate := now_missing / rows;
        psi := NULL;
        ks := NULL;
        chi_squared := NULL;
        p_value := NULL;
        unseen := NULL;
        unseen_rate := NULL;
        chance := NULL;
        level := 0;
        reasons := '{}';
        IF b.name IS NULL OR n.name IS NULL THEN
            level := 1;
            reasons := ARRAY[CASE WHEN b.name IS NULL THEN format('the baseline, of version %s, lacks it',
                                                                  (SELECT max(x.version) FROM predict.baseline x WHERE x.model = plan->>'model'))
                                  ELSE format('version %s lacks it', plan->>'version') END];
        ELSIF b.type <> n.type THEN
            level := 1;
            reasons := ARRAY[format('it was a %s', b.type)];
        ELSIF type = 'number' THEN
            SELECT c.psi, c.ks, c.p_value INTO psi, ks, p_value FROM predict_internal.compare_numbers(b.numbers, b.counts, n.numbers, n.counts) c;
        ELSE
            SELECT c.psi, c.chi_squared, c.p_value, c.unseen, c.unseen_rate, c.chance INTO psi, chi_squared, p_value, unseen, unseen_rate, chance
              FROM predict_internal.compare_categories(b.categories, b.counts, b.rest, n.categories, n.counts, n.rest) c;
        END IF;

        sure := p_value < significant;
        IF psi >= moderate_psi THEN
            level := greatest(level, CASE WHEN NOT sure THEN 0 WHEN psi >= drift_psi THEN 2 ELSE 1 END);
            reasons := reasons || format('psi %s%s', round(psi::numeric, 3), doubts[sure::integer]);
        END IF;
        IF ks >= moderate_ks THEN
            level := greatest(level, CASE WHEN NOT sure THEN 0 WHEN ks >= drift_ks THEN 2 ELSE 1 END);
            reasons := reasons || format('ks %s%s', round(ks::numeric, 3), doubts[sure::integer]);
        END IF;
        IF unseen_rate > 0 THEN
            sure := rows - now_missing > 0 AND unseen_rate > chance + 3 * sqrt(chance / (rows - now_missing));
            level := greatest(level, CASE WHEN NOT sure THEN 0 WHEN unseen_rate >= chance + drift_unseen THEN 2 ELSE 1 END);
            reasons := reasons || format('unseen categories in %s %% of the rows%s', round(unseen_rate::numeric * 100, 2), doubts[sure::integer]);
        END IF;
        IF abs(null_rate - baseline_null_rate) >= moderate_nulls THEN
            sure := (SELECT c.p_value FROM predict_internal.compare_categories('{without,with}', ARRAY[missing, baseline_rows - missing]::bigint[], 0,
                                                                      '{without,with}', ARRAY[now_missing, rows - now_missing]::bigint[], 0) c) < significant;
            level := greatest(level, CASE WHEN NOT sure THEN 0 WHEN abs(null_rate - baseline_null_rate) >= drift_nulls THEN 2 ELSE 1 END);
            reasons := reasons || format('null rate from %s %% to %s %%%s', round(baseline_null_rate::numeric * 100, 2),
                                         round(null_rate::numeric * 100, 2), doubts[sure::integer]);
        END IF;
        verdict := verdicts[level];
        reason := array_to_string(reasons, ', ');
        IF level = 2 THEN
            drifted := drifted || format('%s "%s" (%s)', kind, predict_internal.printable_of(name), reason);
        END IF;
        RETURN NEXT;
    END LOOP;
    IF warn AND drifted <> '{}' THEN
        RAISE WARNING USING MESSAGE = format('data of model "%s" has drifted from its baseline', plan->>'model'),
            DETAIL = array_to_string(drifted, '; ') || '.', HINT = 'predict.drift() shows every feature and output.';
    END IF;
END $$;

CREATE FUNCTION predict.drift(model text, query text, warn boolean DEFAULT false)
    RETURNS TABLE (kind text, name text, type text, baseline_rows bigint, rows bigint, baseline_null_rate float8, null_rate float8, psi float8, ks float8,
                   chi_squared float8, p_value float8, unseen text[], unseen_rate float8, verdict text, reason text)
    LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT d.* FROM predict_internal.judge_drift(predict_internal.stage(model, query, 'drift', warn), warn) AS d;
END $$;
COMMENT ON FUNCTION predict.drift(text, text, boolean) IS
    'run a query, score its rows, and say of each feature and output how far it is from the baseline of the model: ok, moderate or drift';

REVOKE EXECUTE ON FUNCTION predict.set_baseline(text, text) FROM PUBLIC;
