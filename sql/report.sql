-- The report: one page of HTML about a model, to be read in a browser without a network.
--
-- predict.report() decides what may be seen and where the rows come from that are set against the baseline; report_page() puts
-- the page together, one function for each part. A part gives HTML and never fails: what is not there, or not the caller's to
-- see, is a sentence. There is no script in the page, and its policy lets none run.
--
-- Words: a text is what the database holds; HTML is a text in which every character is safe, which predict.html_of() alone makes of
-- a text. Functions that take or give HTML say so by the names of their arguments (`html`, `cells`, `body`); their own
-- words are ASCII, so that the page is right in every encoding.
--
-- Everything runs with the caller's rights. A job's source is its owner's code: it is run for that very role only. As in drift.sql
-- the caller's query runs under the caller's search_path, and the functions around it use qualified names and no operator.

-- What was measured of a version when it was created, for the report and for dashboards.
CREATE VIEW predict.model_speeds AS
SELECT v.model, v.number AS version, m.batch_size, nullif((v.signature->>'single_micros')::float8, 0) AS single_micros,
       nullif((v.signature->>'row_micros')::float8, 0) AS row_micros,
       CASE jsonb_typeof(v.signature->'sweep') WHEN 'array' THEN nullif(v.signature->'sweep', '[]') END AS sweep
  FROM predict.version v JOIN predict.models m ON (m.name, m.version) = (v.model, v.number);
COMMENT ON VIEW predict.model_speeds IS
    'one row a version: its batch size, and microseconds as measured when it was created: of a run of one row, of a row in a good batch, and of runs of growing batches as [[rows, microseconds], ..]';
GRANT SELECT ON predict.model_speeds TO PUBLIC;

-- Makes HTML of a text, in one line: the five characters that mean something become references, control characters and such as turn
-- the direction of writing are shown as escapes.
CREATE FUNCTION predict.html_of(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT replace(replace(replace(replace(replace(predict.printable_of(value),
                   '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;'), '''', '&#39;')
$$;

-- The same of a text whose lines are kept: a statement.
CREATE FUNCTION predict.html_lines(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(predict.html_of(trim(trailing E'\r' FROM l.line)), E'\n' ORDER BY l.n) FROM string_to_table(value, E'\n') WITH ORDINALITY l(line, n)
$$;

-- A number to be read: whole from 1,000 on, else with three digits that count.
CREATE FUNCTION predict.figure_of(x float8) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN x IN ('NaN', 'Infinity', '-Infinity') THEN x::text
                WHEN x = 0 THEN '0'
                WHEN abs(x) >= 1e15 OR abs(x) < 1e-4 THEN trim(to_char(x, '9.99EEEE'))
                WHEN abs(x) >= 1000 OR x = trunc(x) THEN trim(to_char(round(x), 'FM999,999,999,999,990'))
                ELSE round(x::numeric, 2 - floor(log(abs(x)))::integer)::text END
$$;

-- A number for an axis: as short as it can be.
CREATE FUNCTION predict.tick_of(x float8) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN x = 0 THEN '0'
                WHEN abs(x) >= 1e12 OR abs(x) < 1e-4 THEN regexp_replace(x::text, '(\.\d\d)\d+', '\1')
                WHEN abs(x) >= 1e9 THEN trim_scale(round(x::numeric / 1e9, 2))::text || 'G'
                WHEN abs(x) >= 1e6 THEN trim_scale(round(x::numeric / 1e6, 2))::text || 'M'
                -- 5000 is 5k; 1024, as a number of rows, stays.
                WHEN abs(x) >= 1e4 OR abs(x) >= 1000 AND x::numeric % 500 = 0 THEN trim_scale(round(x::numeric / 1e3, 1))::text || 'k'
                ELSE trim_scale(round(x::numeric, 4))::text END
$$;

-- A time to be read, of microseconds, as HTML.
CREATE FUNCTION predict.duration_of(microseconds float8) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN x < 1 THEN predict.figure_of(x * 1000) || ' ns'
                WHEN x < 1e3 THEN predict.figure_of(x) || ' &#181;s'
                WHEN x < 1e6 THEN predict.figure_of(x / 1e3) || ' ms'
                WHEN x < 120e6 THEN predict.figure_of(x / 1e6) || ' s'
                WHEN x < 7200e6 THEN predict.figure_of(round(x / 60e6)) || ' min'
                ELSE predict.figure_of(round(x / 3600e6)) || ' h' END
      FROM (SELECT microseconds AS x) u
$$;

-- A share of the whole, as HTML.
CREATE FUNCTION predict.percent_of(share float8) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN share > 0 AND share < 0.0001 THEN '&lt; 0.01' ELSE trim_scale(round(share::numeric * 100, CASE WHEN share < 0.1 THEN 2 ELSE 1 END))::text END || ' %'
$$;

-- A moment as HTML, in the caller's time zone.
CREATE FUNCTION predict.moment_of(at timestamptz) RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN isfinite(at) THEN format('<time datetime="%s">%s</time>', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), to_char(at, 'YYYY-MM-DD HH24:MI:SS'))
                ELSE at::text END
$$;

-- A value that the page shows as it would be typed, as HTML.
CREATE FUNCTION predict.code_of(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT '<code>' || predict.html_of(value) || '</code>'
$$;

-- A table of rows of HTML cells: arrays in an array. A head that begins with # has numbers below it. The first cell names its row;
-- one that holds a sentence gets room for it.
CREATE FUNCTION predict.html_table(caption text, heads text[], rows jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('<div class="scroll" role="group" tabindex="0" aria-label="%s"><table><caption>%s</caption><thead><tr>%s</tr></thead><tbody>%s</tbody></table></div>',
                  predict.html_of(caption), predict.html_of(caption),
                  (SELECT string_agg(format('<th scope="col"%s>%s</th>', CASE WHEN h LIKE '#%' THEN ' class="n"' ELSE '' END, CASE WHEN h LIKE '#%' THEN substr(h, 2) ELSE h END), '' ORDER BY n)
                     FROM unnest(heads) WITH ORDINALITY u(h, n)),
                  (SELECT string_agg('<tr>' || (SELECT string_agg(format(CASE WHEN c.n = 1 THEN '<th scope="row"%s>%s</th>' ELSE '<td%s>%s</td>' END,
                                                                         CASE WHEN heads[c.n] LIKE '#%' THEN ' class="n"' WHEN length(regexp_replace(c.cell, '<[^>]*>', '', 'g')) > 24 THEN ' class="w"' ELSE '' END,
                                                                         coalesce(c.cell, '&#8211;')), '' ORDER BY c.n)
                                                  FROM jsonb_array_elements_text(r.cells) WITH ORDINALITY c(cell, n)) || '</tr>', '' ORDER BY r.n)
                     FROM jsonb_array_elements(rows) WITH ORDINALITY r(cells, n)))
$$;

-- A part of the page, of HTML.
CREATE FUNCTION predict.html_part(id text, title text, body text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(E'<section id="%s" aria-labelledby="%s-title"><h2 id="%s-title">%s</h2>\n%s\n</section>\n', id, id, id, title, body)
$$;

-- A sentence in the place of what is not there, of HTML.
CREATE FUNCTION predict.html_note(body text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('<p class="note">%s</p>', body)
$$;

-- A statement to be copied.
CREATE FUNCTION predict.html_statement(statement text, id text DEFAULT NULL) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('<pre%s><code>%s</code></pre>', coalesce(' id="' || id || '"', ''), predict.html_lines(trim(trailing E'\n' FROM statement))) WHERE statement IS NOT NULL
$$;

-- A chart 400 wide: drawn as wide as there is room, with a title and a description for those who do not see it. Its id makes those
-- of its parts. `legend` is HTML below the title.
CREATE FUNCTION predict.chart(id text, title text, description text, legend text, height integer, body text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(E'<figure id="%s"><figcaption><strong>%s</strong>%s</figcaption><svg viewBox="0 0 400 %s" role="img" aria-labelledby="%s-title %s-desc">'
                   '<title id="%s-title">%s</title><desc id="%s-desc">%s</desc>%s</svg></figure>\n',
                  id, predict.html_of(title), coalesce(' ' || legend, ''), height, id, id, id, predict.html_of(title), id, predict.html_of(description), body)
$$;

-- The distance of marks on an axis that make about so many: 1, 2 or 5 times a power of ten.
CREATE FUNCTION predict.tick_step(span float8, marks integer) RETURNS float8
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN f < 1.5 THEN 1 WHEN f < 3.5 THEN 2 WHEN f < 7.5 THEN 5 ELSE 10 END * e
      FROM (SELECT span / marks AS s WHERE span > 0) u, LATERAL (SELECT power(10::float8, floor(log(s))) AS e) v, LATERAL (SELECT s / e AS f) w
$$;

-- The upright axis of a chart, from 0 up to `most`: lines across, with their numbers. `unit` stands behind each.
CREATE FUNCTION predict.chart_axis(most float8, bottom float8, top float8, unit text DEFAULT '') RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('<line class="grid" x1="46" x2="396" y1="%s" y2="%s"/><text x="41" y="%s" class="end">%s%s</text>', p.y, p.y, p.y + 4, predict.tick_of(i * step), unit), '' ORDER BY i)
      FROM (SELECT predict.tick_step(most, 4) AS step) s, generate_series(0, floor(most / step * 1.0001)::integer) i,
           LATERAL (SELECT round((bottom - i * step / most * (bottom - top))::numeric, 1) AS y) p
$$;

-- The name of a chart's category, cut to what there is room for, as HTML.
CREATE FUNCTION predict.short_name(name text, most integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN length(name) <= most THEN predict.html_of(name) ELSE predict.html_of(left(name, most - 1)) || '&#8230;' END
$$;

-- A histogram of numbers, as predict.histograms() gives it: the baseline's bars wide and pale, those of now narrow before them.
CREATE FUNCTION predict.chart_numbers(id text, line jsonb, legend text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH shape AS (SELECT (line->>'bins')::integer AS bins, (line->>'low')::float8 AS low, (line->>'step')::float8 AS step, (line->>'whole')::boolean AS whole),
         bar AS (SELECT n, b.share::float8 AS base, (line->'now'->>(n - 1)::integer)::float8 AS now,
                        CASE WHEN whole THEN predict.tick_of(low + (n - 0.5) * step) ELSE predict.tick_of(low + (n - 1) * step) || ' to ' || predict.tick_of(low + n * step) END AS name
                   FROM shape, jsonb_array_elements_text(line->'base') WITH ORDINALITY b(share, n)),
         scale AS (SELECT greatest(max(greatest(base, now)), 1e-6) AS most, 342.0::float8 / max(n) AS width FROM bar),
         drawn AS (SELECT string_agg(format('<rect class="base" x="%s" y="%s" width="%s" height="%s"><title>%s: %s of the baseline</title></rect>',
                                            round((46 + (n - 1) * width + width * 0.06)::numeric, 1), round((182 - base / most * 170)::numeric, 1),
                                            round((width * 0.88)::numeric, 1), round((base / most * 170)::numeric, 1), name, predict.percent_of(base)), '' ORDER BY n)
                          || coalesce(string_agg(format('<rect class="now" x="%s" y="%s" width="%s" height="%s"><title>%s: %s now</title></rect>',
                                            round((46 + (n - 1) * width + width * 0.28)::numeric, 1), round((182 - now / most * 170)::numeric, 1),
                                            round((width * 0.44)::numeric, 1), round((now / most * 170)::numeric, 1), name, predict.percent_of(now)), '' ORDER BY n) FILTER (WHERE now IS NOT NULL), '') AS bars
                     FROM bar, scale),
         mark AS (SELECT string_agg(format('<text x="%s" y="199" class="mid">%s</text>', round((46 + i * width + CASE WHEN whole THEN width / 2 ELSE 0 END)::numeric, 1),
                                           predict.tick_of(low + (i + CASE WHEN whole THEN 0.5 ELSE 0 END) * step)), '' ORDER BY i) AS marks
                    FROM shape, scale, generate_series(0, bins - CASE WHEN whole THEN 1 ELSE 0 END, greatest(1, ceil(bins / 6.0)::integer)) i)
    SELECT predict.chart(id, line->>'name', format('Histogram of %s in %s bins. Shares of the rows, baseline first, then now where there are rows: %s.',
                                                   line->>'name', (SELECT bins FROM shape),
                                                   (SELECT string_agg(format('%s: %s %%%s', name, round(base::numeric * 100, 1), ', ' || round(now::numeric * 100, 1) || ' %'), '; ' ORDER BY n) FROM bar)),
                         legend, 206, (SELECT predict.chart_axis(most * 100, 182, 12, '%') FROM scale) || (SELECT bars FROM drawn) || (SELECT marks FROM mark))
$$;

-- The same of categories, lying.
CREATE FUNCTION predict.chart_categories(id text, line jsonb, legend text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH bar AS (SELECT l.name, l.n, (line->'base'->>(l.n - 1)::integer)::float8 AS base, (line->'now'->>(l.n - 1)::integer)::float8 AS now
                   FROM jsonb_array_elements_text(line->'labels') WITH ORDINALITY l(name, n)),
         scale AS (SELECT greatest(max(greatest(base, now)), 1e-6) AS most, max(n) AS bars, CASE WHEN max(n) <= 5 THEN 32 ELSE 17 END AS height FROM bar),
         drawn AS (SELECT string_agg(format('<text x="96" y="%s" class="end">%s</text>', 6 + (n - 0.5) * height + 4, predict.short_name(name, 14))
                                     || format('<rect class="base" x="102" y="%s" width="%s" height="%s"><title>%s: %s of the baseline</title></rect>', 6 + (n - 1) * height + 1.5,
                                               round((base / most * 186)::numeric, 1), height - 3, predict.html_of(name), predict.percent_of(base))
                                     || CASE WHEN now IS NULL THEN '' ELSE format('<rect class="now" x="102" y="%s" width="%s" height="%s"><title>%s: %s now</title></rect>',
                                                                                         round((6 + (n - 1) * height + height * 0.28)::numeric, 1),
                                               round((now / most * 186)::numeric, 1), round((height * 0.44)::numeric, 1), predict.html_of(name), predict.percent_of(now)) END
                                     || format('<text x="%s" y="%s">%s</text>', round((greatest(base, coalesce(now, 0)) / most * 186 + 108)::numeric, 1), 6 + (n - 0.5) * height + 4,
                                               predict.percent_of(base) || coalesce(' &#8594; ' || predict.percent_of(now), '')), '' ORDER BY n) AS bars
                     FROM bar, scale)
    SELECT predict.chart(id, line->>'name', format('Shares of the categories of %s, baseline first, then now where there are rows: %s.', line->>'name',
                                                   (SELECT string_agg(format('%s: %s %%%s', name, round(base::numeric * 100, 1), ', ' || round(now::numeric * 100, 1) || ' %'), '; ' ORDER BY n) FROM bar)),
                         legend, (SELECT 14 + bars * height FROM scale)::integer, (SELECT bars FROM drawn))
$$;

-- Either of them, small, for a cell of a table that has the figures beside it.
CREATE FUNCTION predict.chart_small(line jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH bar AS (SELECT n, b.share::float8 AS base, (line->'now'->>(n - 1)::integer)::float8 AS now FROM jsonb_array_elements_text(line->'base') WITH ORDINALITY b(share, n)),
         scale AS (SELECT greatest(max(greatest(base, now)), 1e-6) AS most, 110.0::float8 / max(n) AS width FROM bar)
    SELECT '<svg class="small" viewBox="0 0 110 26" aria-hidden="true">'
           || string_agg(format('<rect class="base" x="%s" y="%s" width="%s" height="%s"/>', round(((n - 1) * width)::numeric, 1), round((26 - base / most * 25)::numeric, 1),
                                round((width * 0.88)::numeric, 1), round((base / most * 25)::numeric, 1)), '' ORDER BY n)
           || coalesce(string_agg(format('<rect class="now" x="%s" y="%s" width="%s" height="%s"/>', round(((n - 1) * width + width * 0.22)::numeric, 1), round((26 - now / most * 25)::numeric, 1),
                                round((width * 0.44)::numeric, 1), round((now / most * 25)::numeric, 1)), '' ORDER BY n) FILTER (WHERE now IS NOT NULL), '') || '</svg>'
      FROM bar, scale
$$;

-- Rows over the runs of a job: scored, skipped and failed, one upon the other.
CREATE FUNCTION predict.chart_rows(id text, runs jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH run AS (SELECT n, r->>'run' AS run, (r->>'scored')::float8 AS scored, (r->>'skipped')::float8 AS skipped, (r->>'failed')::float8 AS failed
                   FROM jsonb_array_elements(runs) WITH ORDINALITY u(r, n)),
         scale AS (SELECT greatest(max(scored + skipped + failed), 1) AS most, 350.0::float8 / greatest(max(n), 6) AS width, max(n) AS size FROM run),
         drawn AS (SELECT string_agg(format('<rect class="%s" x="%s" y="%s" width="%s" height="%s"><title>run %s: %s rows %s</title></rect>', class, round((46 + (n - 0.86) * width)::numeric, 1),
                                            round((162 - (below + rows) / most * 150)::numeric, 1), round((width * 0.72)::numeric, 1), round((rows / most * 150)::numeric, 1),
                                            run, predict.figure_of(rows), name), '' ORDER BY n, below)
                     FROM run, scale, LATERAL (VALUES ('now', 'scored', scored, 0), ('base', 'skipped', skipped, scored), ('bad', 'failed', failed, scored + skipped)) v(class, name, rows, below)
                    WHERE rows > 0),
         mark AS (SELECT string_agg(format('<text x="%s" y="179" class="mid">%s</text>', round((46 + (n - 0.5) * width)::numeric, 1), run), '' ORDER BY n) AS marks
                    FROM run, scale WHERE (n - 1) % ceil(size / 8.0) = 0)
    SELECT predict.chart(id, 'Rows of each run', format('Rows of the last %s runs: %s.', (SELECT size FROM scale),
                             (SELECT string_agg(format('run %s: %s scored, %s skipped, %s failed', run, scored, skipped, failed), '; ' ORDER BY n) FROM run)),
                         '<span class="key"><span><i class="now"></i>scored</span> <span><i class="base"></i>skipped</span> <span><i class="bad"></i>failed</span></span>', 200,
                         (SELECT predict.chart_axis(most, 162, 12) FROM scale) || coalesce((TABLE drawn), '') || (SELECT marks FROM mark) || '<text x="221" y="196" class="mid">run</text>')
$$;

-- Time for each row over the runs of a job. Runs that did not succeed are hollow; those without rows have no point.
CREATE FUNCTION predict.chart_latency(id text, runs jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH run AS (SELECT n, r->>'run' AS run, (r->>'row_micros')::float8 AS micros, r->>'status' AS status FROM jsonb_array_elements(runs) WITH ORDINALITY u(r, n)),
         scale AS (SELECT greatest(max(micros), 1e-3) AS most, 350.0::float8 / greatest(max(n), 6) AS width, max(n) AS size FROM run),
         point AS (SELECT r.*, round((46 + (n - 0.5) * width)::numeric, 1) AS x, round((162 - micros / most * 150)::numeric, 1) AS y FROM run r, scale WHERE micros IS NOT NULL),
         mark AS (SELECT string_agg(format('<text x="%s" y="179" class="mid">%s</text>', round((46 + (n - 0.5) * width)::numeric, 1), run), '' ORDER BY n) AS marks
                    FROM run, scale WHERE (n - 1) % ceil(size / 8.0) = 0)
    SELECT predict.chart(id, 'Time for a row', format('Microseconds for a row, over the last %s runs: %s.', (SELECT size FROM scale),
                             (SELECT string_agg(format('run %s: %s (%s)', run, predict.figure_of(micros), status), '; ' ORDER BY n) FROM point)),
                         '<span class="key"><span><i class="dot"></i>microseconds, the whole run</span></span>', 200,
                         (SELECT predict.chart_axis(most, 162, 12) FROM scale)
                         || coalesce((SELECT format('<polyline class="line" points="%s"/>', string_agg(x || ',' || y, ' ' ORDER BY n)) FROM point WHERE status = 'succeeded'), '')
                         || coalesce((SELECT string_agg(format('<circle class="%s" cx="%s" cy="%s" r="4.5"><title>run %s, %s: %s for a row</title></circle>',
                                                               CASE status WHEN 'succeeded' THEN 'dot' ELSE 'hollow' END,
                                                               x, y, run, status, predict.duration_of(micros)), '' ORDER BY n) FROM point), '')
                         || (SELECT marks FROM mark) || '<text x="221" y="196" class="mid">run</text>')
$$;

-- Rows a second over the rows of a batch, as measured: [[rows, microseconds], ..]. A mark stands at the batch size that is used.
CREATE FUNCTION predict.chart_speed(id text, sweep jsonb, batch_size integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH point AS (SELECT n, (p->>0)::float8 AS rows, (p->>0)::float8 / nullif((p->>1)::float8, 0) * 1e6 AS speed FROM jsonb_array_elements(sweep) WITH ORDINALITY u(p, n)),
         scale AS (SELECT greatest(max(speed), 1) AS most, ln(least(min(rows), batch_size)) AS low,
                          greatest(ln(greatest(max(rows), batch_size)) - ln(least(min(rows), batch_size)), 1e-9) AS span FROM point),
         placed AS (SELECT p.*, round((58 + (ln(rows) - low) / span * 326)::numeric, 1) AS x, round((182 - speed / most * 165)::numeric, 1) AS y FROM point p, scale),
         used AS (SELECT round((58 + (ln(batch_size) - low) / span * 326)::numeric, 1) AS x, ln(batch_size) - low > span / 2 AS right FROM scale)
    SELECT predict.chart(id, 'Rows a second by batch size', format('Rows a second for batches of growing size; %s rows are run together. %s.', batch_size,
                             (SELECT string_agg(format('%s rows: %s a second', rows, predict.figure_of(speed)), '; ' ORDER BY n) FROM placed)),
                         '<span class="key"><span><i class="dot"></i>as probed, the model alone</span></span>', 220,
                         (SELECT predict.chart_axis(most, 182, 17) FROM scale)
                         || (SELECT format('<line class="used" x1="%s" x2="%s" y1="8" y2="182"/><text x="%s" y="%s"%s>used: %s</text>', x, x, CASE WHEN used.right THEN x - 5 ELSE x + 5 END, 174,
                                           CASE WHEN used.right THEN ' class="end"' ELSE '' END, predict.figure_of(batch_size)) FROM used)
                         || (SELECT format('<polyline class="line" points="%s"/>', string_agg(x || ',' || y, ' ' ORDER BY n))
                                    || string_agg(format('<circle class="dot" cx="%s" cy="%s" r="4"><title>%s rows together: %s rows a second</title></circle>',
                                                                       x, y, predict.figure_of(rows), predict.figure_of(speed)), '' ORDER BY n)
                                    || string_agg(format('<text x="%s" y="199" class="mid">%s</text>', x, CASE WHEN rows::numeric % 1024 = 0 THEN (rows / 1024)::text || 'k' ELSE predict.tick_of(rows) END), '' ORDER BY n) FILTER (WHERE (n - 1) % ceil(size / 8.0) = 0)
                               FROM (SELECT p.*, count(*) OVER () AS size FROM placed p) p)
                         || '<text x="221" y="216" class="mid">rows run together</text>')
     WHERE EXISTS (SELECT FROM point WHERE speed > 0)
$$;

-- How each line of a model's baseline is distributed, in bins or categories, and the same of the rows that a plan has staged, if it
-- has: shares of those that are no NULL. Bins go from the half per cent below to the half per cent above of both; the
-- outermost take what is beyond.
CREATE FUNCTION predict.histograms(model text, plan jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    result jsonb := '[]';
    b predict.baseline;
    source text;
    low float8; high float8; least_value float8; most_value float8; whole boolean;
    now_low float8; now_high float8; now_least float8; now_most float8; now_whole boolean;
    step float8; bins integer;
    base_shares jsonb; now_shares jsonb; labels jsonb;
    now_values text[]; now_counts bigint[]; now_total float8;
BEGIN
    FOR b IN SELECT * FROM predict.baseline x WHERE x.model = histograms.model ORDER BY x.kind, x.position, x.name LOOP
        source := NULL;
        now_shares := NULL;
        SELECT CASE l->>'type' WHEN 'map' THEN format('(%s->>%L)', l->>'source',
                                                       substr(b.name, length(l->>'name') + 2, length(b.name) - length(l->>'name') - 2)) ELSE l->>'source' END
          INTO source FROM jsonb_array_elements(plan->'lines') l
         WHERE l->>'kind' = b.kind AND (l->>'name' = b.name AND l->>'type' = b.type OR l->>'type' = 'map' AND starts_with(b.name, (l->>'name') || '[')) LIMIT 1;
        IF b.type = 'number' THEN
            SELECT min(x) FILTER (WHERE place > total * 0.005), min(x) FILTER (WHERE place >= total * 0.995), min(x), max(x), bool_and(x = trunc(x))
              INTO low, high, least_value, most_value, whole
              FROM (SELECT x, sum(n) OVER (ORDER BY x) AS place, sum(n) OVER () AS total FROM unnest(b.numbers, b.counts) u(x, n) WHERE abs(x) < 'Infinity') v;
            IF source IS NOT NULL THEN
                EXECUTE format('SELECT percentile_disc(0.005) WITHIN GROUP (ORDER BY x), percentile_disc(0.995) WITHIN GROUP (ORDER BY x), min(x), max(x), bool_and(x = trunc(x))
                                  FROM (SELECT (%s)::float8 AS x FROM pg_temp.%I) v WHERE abs(x) < ''Infinity''', source, plan->>'rows')
                    INTO now_low, now_high, now_least, now_most, now_whole;
                low := least(low, now_low);
                high := greatest(high, now_high);
                least_value := least(least_value, now_least);
                most_value := greatest(most_value, now_most);
                whole := whole AND coalesce(now_whole, true);
            END IF;
            -- Nothing that is finite, or more than a number holds.
            CONTINUE WHEN low IS NULL OR high / 4 - low / 4 > 4e307;
            whole := whole AND most_value - least_value <= 30;
            IF whole THEN
                step := 1;
                low := least_value - 0.5;
                bins := most_value - least_value + 1;
            ELSE
                step := coalesce(predict.tick_step(high - low, 16), greatest(abs(low) / 10, 1e-300));
                low := floor(low / step) * step;
                bins := least(greatest(floor((high - low) / step * 1.000001)::integer + 1, 1), 60);
                -- A last bin that begins where all ends has room for nothing.
                bins := CASE WHEN bins > 1 AND low + (bins - 1) * step >= high AND low + (bins - 1) * step >= most_value THEN bins - 1 ELSE bins END;
            END IF;
            SELECT jsonb_agg(coalesce(n, 0) / total ORDER BY i) INTO base_shares
              FROM generate_series(1, bins) i LEFT JOIN (SELECT least(greatest(width_bucket(x, low, low + bins * step, bins), 1), bins) AS bin, sum(n)::float8 AS n
                                                           FROM unnest(b.numbers, b.counts) u(x, n) GROUP BY 1) v ON v.bin = i,
                   (SELECT nullif(sum(n), 0)::float8 AS total FROM unnest(b.counts) n) t;
            IF source IS NOT NULL THEN
                EXECUTE format('SELECT CASE WHEN max(total) > 0 THEN jsonb_agg(coalesce(n, 0) / total ORDER BY i) END
                                  FROM (SELECT i, coalesce(n, 0) AS n, sum(n) OVER () AS total FROM generate_series(1, $1) i
                                          LEFT JOIN (SELECT least(greatest(width_bucket(x, $2, $2 + $1 * $3, $1), 1), $1) AS bin, count(*)::float8 AS n
                                                       FROM (SELECT (%s)::float8 AS x FROM pg_temp.%I) r WHERE x <> ''NaN'' GROUP BY 1) v ON v.bin = i) w', source, plan->>'rows')
                    INTO now_shares USING bins, low, step;
            END IF;
            result := result || jsonb_build_object('kind', b.kind, 'name', b.name, 'type', b.type, 'version', b.version, 'low', low, 'step', step, 'bins', bins, 'whole', whole,
                                                   'open', least_value < low OR most_value > low + bins * step, 'base', base_shares, 'now', now_shares);
        ELSE
            now_values := '{}';
            now_counts := '{}';
            now_total := NULL;
            IF source IS NOT NULL THEN
                EXECUTE format('SELECT coalesce(array_agg(x), ''{}''), coalesce(array_agg(n), ''{}''), max(total)
                                  FROM (SELECT x, count(*) AS n, sum(count(*)) OVER ()::float8 AS total FROM (SELECT (%s)::text COLLATE "C" AS x FROM pg_temp.%I) r
                                         WHERE x IS NOT NULL GROUP BY x ORDER BY n DESC, x LIMIT 1000) v', source, plan->>'rows')
                    INTO now_values, now_counts, now_total;
            END IF;
            CONTINUE WHEN (SELECT coalesce(sum(n), 0) FROM unnest(b.counts) n) + b.rest = 0;
            WITH share AS (SELECT x, coalesce(o.n, 0) / total AS base, coalesce(w.n, 0) / now_total AS now
                             FROM (SELECT sum(n)::float8 + b.rest AS total FROM unnest(b.counts) n) t,
                                  (SELECT x COLLATE "C" AS x, n FROM unnest(b.categories, b.counts) u(x, n)) o
                                  FULL JOIN (SELECT x COLLATE "C" AS x, n FROM unnest(now_values, now_counts) u(x, n)) w USING (x)),
                 ranked AS (SELECT *, row_number() OVER (ORDER BY greatest(base, now) DESC, x) AS place, count(*) OVER () AS size FROM share),
                 -- The largest ten; what is left is one more, unless it is just one.
                 kept AS (SELECT x, base, now, row_number() OVER (ORDER BY base DESC, now DESC, x) AS n FROM ranked WHERE place <= CASE WHEN size <= 11 THEN 11 ELSE 10 END),
                 line AS (SELECT x, base, now, n FROM kept
                          UNION ALL SELECT 'all others', greatest(1 - sum(base), 0), greatest(1 - sum(now), 0), 99 FROM kept HAVING 1 - sum(base) > 1e-9 OR 1 - sum(now) > 1e-9)
            SELECT jsonb_agg(x ORDER BY n), jsonb_agg(l.base ORDER BY n), CASE WHEN now_total > 0 THEN jsonb_agg(l.now ORDER BY n) END INTO labels, base_shares, now_shares FROM line l;
            result := result || jsonb_build_object('kind', b.kind, 'name', b.name, 'type', b.type, 'version', b.version, 'labels', labels, 'base', base_shares, 'now', now_shares);
        END IF;
    END LOOP;
    RETURN result;
END $$;

-- Sets the staged rows beside the baseline, and drops them. Rows that a job kept lack the outputs that it does not keep.
CREATE FUNCTION predict.compare_staged(plan jsonb, of_job text) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    lines jsonb := predict.histograms(plan->>'model', plan);
BEGIN
    RETURN jsonb_build_object('job', of_job, 'part', plan->'part', 'histograms', lines, 'drift',
                              (SELECT jsonb_agg(d) FROM predict.judge_drift(plan, false) d WHERE of_job IS NULL OR d.kind = 'feature' OR d.rows IS NOT NULL));
END $$;

-- Stages the rows of a job of the caller's own: features from its source as it is now, outputs as the job wrote them into its
-- target. Nothing is scored. Beyond about a million rows it is one row in so many, picked by the hash of its key.
CREATE FUNCTION predict.stage_job(reference text, job predict.job) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    most_rows CONSTANT integer := 1000000;
    plan jsonb := predict.plan_stage(reference, job.source, 'drift', false);
    statement text := predict.shape_statement(plan);
    part integer := ceil(greatest((SELECT c.reltuples FROM pg_class c WHERE c.oid = to_regclass(job.target)), 1)::float8 / most_rows);
    lines jsonb;
BEGIN
    PERFORM pg_catalog.set_config('search_path', job.search_path, true);
    EXECUTE statement;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    plan := predict.plan_lines(plan);
    -- Which column of the target holds what: an output, or one value of it.
    WITH kept AS (
        SELECT e.key AS name, e.value AS of_output FROM jsonb_each_text(job.options->'columns') e
         UNION ALL
        SELECT o.name, o.name FROM predict.model_outputs o WHERE NOT job.options ? 'columns' AND (o.model, o.version) = (plan->>'model', (plan->>'version')::integer)
    ), line AS (
        SELECT e.l, e.n, o.name AS output, k.name AS kept, k.of_output,
               row_number() OVER (PARTITION BY e.n, CASE WHEN e.l->>'type' = 'map' THEN k.of_output END ORDER BY k.of_output = o.name, k.name) AS choice
          FROM jsonb_array_elements(plan->'lines') WITH ORDINALITY e(l, n)
          LEFT JOIN predict.model_outputs o ON (o.model, o.version, o.position) = (plan->>'model', (plan->>'version')::integer, (e.l->>'position')::integer) AND e.l->>'kind' = 'output'
          LEFT JOIN kept k ON e.l->>'kind' = 'output' AND (k.of_output IN (e.l->>'name', o.name) OR e.l->>'type' = 'map' AND starts_with(k.of_output, o.name || '['))
    ), chosen AS (
        SELECT l.*, CASE WHEN l->>'kind' = 'feature' OR of_output = output THEN l
                         ELSE l || jsonb_build_object('source', format('%I', 'value ' || n || ' ' || md5(of_output))) END
                    || CASE WHEN l->>'type' = 'map' AND of_output <> output THEN jsonb_build_object('type', 'number', 'name', of_output) ELSE '{}' END AS changed
          FROM line l WHERE l->>'kind' = 'feature' OR kept IS NOT NULL AND choice = 1
    )
    SELECT jsonb_agg(c.changed ORDER BY c.n),
           (SELECT string_agg(DISTINCT item, ', ') FROM (
                SELECT format('predict_source.%I AS %I', p->>'column', p->>'as') AS item FROM jsonb_array_elements(plan->'columns') p WHERE p->>'as' LIKE 'feature %'
                 UNION ALL
                SELECT format('predict_target.%I::%s AS %I', x.kept, p->>'type', p->>'as') FROM chosen x JOIN jsonb_array_elements(plan->'columns') p ON p->>'as' = 'output ' || (x.l->>'position')
                 WHERE x.of_output = x.output
                 UNION ALL
                SELECT format('predict_target.%I AS %s', x.kept, x.changed->>'source') FROM chosen x WHERE x.of_output <> x.output) i)
      INTO lines, statement FROM chosen c;
    plan := plan || jsonb_build_object('lines', lines, 'part', part);
    statement := (SELECT format(E'CREATE TEMPORARY TABLE pg_temp.%I ON COMMIT DROP AS SELECT %s FROM (\n%s\n) AS predict_source JOIN %s AS predict_target ON %s WHERE %s AND %s',
                                plan->>'rows', statement, plan->>'query', job.target, string_agg(format('predict_target.%I = predict_source.%1$I', k), ' AND '),
                                CASE WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(job.target) AND a.attname = 'model_version')
                                     THEN format('predict_target.model_version = %s', plan->>'version') ELSE 'true' END,
                                CASE WHEN part > 1 THEN format('pg_catalog.mod(pg_catalog.abs(pg_catalog.hashtext(pg_catalog.concat_ws('','', %s))::bigint), %s) = 0',
                                                               string_agg(format('predict_target.%I', k), ', '), part) ELSE 'true' END)
                    FROM unnest(job.key) k);
    PERFORM pg_catalog.set_config('search_path', job.search_path, true);
    EXECUTE statement;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    RETURN plan;
END $$;

-- The job whose rows stand for now: the caller's own that last succeeded with the model.
CREATE FUNCTION predict.job_of(model text) RETURNS predict.job
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT j FROM predict.job j JOIN predict.job_run r ON r.job = j.id AND r.status = 'succeeded'
     WHERE j.owner = quote_ident(current_user)::regrole AND predict.model_of(j.model) = job_of.model ORDER BY r.finished DESC LIMIT 1
$$;

-- What there is to be compared with the baseline without a query, or why there is nothing (`why`, HTML).
CREATE FUNCTION predict.compare_job(reference text) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    of_model text := predict.model_of(reference);
    job predict.job := predict.job_of(of_model);
    call CONSTANT text := format('SELECT predict.report(%s, ''SELECT ..'')', predict.literal_of(reference));
    message text;
BEGIN
    IF NOT predict.owns_model(of_model) THEN
        RETURN jsonb_build_object('why', 'The baseline is shown to the owner of the model.');
    ELSIF NOT EXISTS (SELECT FROM predict.baseline b WHERE b.model = of_model) THEN
        RETURN jsonb_build_object('why', 'There is no baseline yet. Keep one, of rows that the model was judged good on:', 'statement',
                                  format('SELECT predict.set_baseline(%s, %L);', predict.literal_of(reference), coalesce(job.source, 'SELECT ..')));
    ELSIF job.id IS NULL THEN
        message := format('No job of role %s has succeeded with this model, so there are no rows to set beside the baseline. %s takes those of a query.',
                          predict.code_of(current_user), predict.code_of(call));
    ELSIF pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean THEN
        message := 'Rows are set beside the baseline where tables can be made: not on a standby, and not in a read-only transaction.';
    ELSE
        BEGIN
            RETURN predict.compare_staged(predict.stage_job(reference, job), job.name);
        EXCEPTION WHEN OTHERS THEN
            message := format('The rows of job %s could not be set beside the baseline: %s.', predict.code_of(job.name), predict.html_of(SQLERRM));
        END;
    END IF;
    BEGIN
        RETURN jsonb_build_object('why', message, 'histograms', predict.histograms(of_model, NULL));
    EXCEPTION WHEN OTHERS THEN
        RETURN jsonb_build_object('why', format('%s The baseline could not be read: %s.', message, predict.html_of(SQLERRM)));
    END;
END $$;

-- How the page looks: colours for light and dark, one column on a phone. Nothing is fetched.
CREATE FUNCTION predict.report_style() RETURNS text IMMUTABLE PARALLEL SAFE RETURN $style$
:root { color-scheme: light dark; --page: #f5f6f8; --card: #ffffff; --ink: #1b2129; --soft: #566170; --rule: #dde1e7; --grid: #e6e9ee; --link: #1550b8;
  --now: #1f5fd0; --base: #8793a5; --bad: #c62f3b; --ok-ink: #12683a; --ok: #def3e5; --moderate-ink: #7d4a00; --moderate: #fdeecb; --drift-ink: #a11b28; --drift: #fde2e3; --code: #f1f3f6; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1318; --card: #181e26; --ink: #e8ecf2; --soft: #a3afbf; --rule: #2d3641; --grid: #28313c; --link: #8fb8ff;
  --now: #6ba4ff; --base: #66748a; --bad: #ff7b82; --ok-ink: #86dfa9; --ok: #143524; --moderate-ink: #f5c76b; --moderate: #3b2d0e; --drift-ink: #ffa3a8; --drift: #45191d; --code: #11161c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
header, main, footer { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 .9rem; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .5rem; overflow-wrap: anywhere; }
p { margin: 0 0 .8rem; overflow-wrap: anywhere; }
a { color: var(--link); }
.lead { color: var(--soft); margin: .3rem 0 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.2rem, 1fr)); gap: .8rem; margin: 1.3rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; padding: .75rem .9rem; min-width: 0; }
.tiles li > span { display: block; color: var(--soft); font-size: .85rem; }
.tiles time { white-space: normal; }
.tiles strong { display: block; font-size: 1.45rem; line-height: 1.3; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; list-style: none; margin: 0 0 1.2rem; padding: 0; font-size: .95rem; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: .7rem; padding: 1.2rem 1.25rem; margin: 0 0 1.2rem; min-width: 0; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .7rem 1.4rem; margin: 0; }
dl div { min-width: 0; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace; font-size: .875em; }
pre { background: var(--code); border: 1px solid var(--rule); border-radius: .5rem; padding: .8rem .9rem; margin: 0 0 1rem; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.45; }
pre code { font-size: .82rem; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--soft); font-size: .85rem; padding: 0 0 .35rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--rule); }
thead th { color: var(--soft); font-weight: 600; font-size: .82rem; white-space: nowrap; }
tbody th { font-weight: 500; max-width: 22rem; overflow-wrap: break-word; }
td { max-width: 26rem; overflow-wrap: break-word; }
.w { min-width: 14rem; }
tbody tr:last-child > * { border-bottom: 0; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
time, .tight { white-space: nowrap; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 0 2.2rem; }
.pair > * { min-width: 0; }
figure { margin: 0 0 1rem; min-width: 0; }
figcaption { font-size: .9rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; max-width: 34rem; font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; font-variant-numeric: tabular-nums; }
svg text { fill: var(--soft); }
svg .end { text-anchor: end; }
svg .mid { text-anchor: middle; }
svg.small { width: 7rem; height: 1.65rem; }
.grid { stroke: var(--grid); stroke-width: 1; }
rect.base { fill: var(--base); }
rect.now { fill: var(--now); }
rect.bad { fill: var(--bad); }
.line { fill: none; stroke: var(--now); stroke-width: 1.75; stroke-linejoin: round; }
circle.dot { fill: var(--now); stroke: var(--card); stroke-width: 1.5; }
circle.hollow { fill: var(--card); stroke: var(--bad); stroke-width: 2; }
.used { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 3; }
.key { color: var(--soft); font-size: .85rem; }
.key span { white-space: nowrap; }
.key i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; margin: 0 .3rem 0 .6rem; }
.key i.now, .key i.dot { background: var(--now); }
.key i.dot { border-radius: 50%; }
.key i.base { background: var(--base); }
.key i.bad { background: var(--bad); }
.chip { display: inline-block; border: 1px solid var(--rule); border-radius: 1rem; padding: 0 .6rem; font-size: .82rem; font-weight: 600; max-width: 100%; overflow-wrap: anywhere; }
td .chip { max-width: none; overflow-wrap: normal; white-space: nowrap; }
.ok, .succeeded { background: var(--ok); color: var(--ok-ink); border-color: transparent; }
.moderate, .running, .interrupted { background: var(--moderate); color: var(--moderate-ink); border-color: transparent; }
.drift, .failed { background: var(--drift); color: var(--drift-ink); border-color: transparent; }
.note { color: var(--soft); border-left: 3px solid var(--base); padding: .1rem 0 .1rem .8rem; }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 2.5rem; }
@media (max-width: 32rem) { header, main, footer { padding-left: .7rem; padding-right: .7rem; } section { padding: 1rem .85rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem; } h1 { font-size: 1.55rem; } .tiles strong { font-size: 1.2rem; } }
@media print { :root { --page: #ffffff; } section { break-inside: avoid-page; } nav { display: none; } .scroll { overflow: visible; } }
$style$;

-- A verdict or a status, with a sign and a colour.
CREATE FUNCTION predict.html_chip(word text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('<span class="chip tight%s">%s%s</span>', CASE WHEN word IN ('ok', 'moderate', 'drift', 'succeeded', 'running', 'interrupted', 'failed') THEN ' ' || word ELSE '' END,
                  CASE WHEN word IN ('ok', 'succeeded') THEN '&#10003; ' WHEN word IN ('moderate', 'interrupted') THEN '&#9650; ' WHEN word IN ('drift', 'failed') THEN '&#10007; ' ELSE '' END,
                  predict.html_of(word))
$$;

-- The shape of a row as it is written: [3,224,?]; nothing for one value.
CREATE FUNCTION predict.shape_of(row_shape integer[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN row_shape IS NULL THEN NULL WHEN row_shape = '{}' THEN 'one value'
                ELSE (SELECT '[' || string_agg(CASE WHEN d < 0 THEN '?' ELSE d::text END, ', ' ORDER BY n) || ']' FROM unnest(row_shape) WITH ORDINALITY u(d, n)) END
$$;

-- A call that runs as it stands: predict.describe()'s, or, where the baseline knows what each column is like, with the middle number and
-- the commonest category of each.
CREATE FUNCTION predict.example_call(reference text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_model text := predict.model_of(reference);
    of_version integer := predict.version_of(reference);
    statement text := regexp_replace(predict.describe(reference), '^--[^\n]*\n', '', 'gn');
    features jsonb := (SELECT CASE jsonb_typeof(m.options->'features') WHEN 'array' THEN m.options->'features' END FROM predict.models m WHERE (m.name, m.version) = (of_model, of_version));
    columns text;
    literals text;
BEGIN
    WITH wanted AS (
        SELECT f.name, f.n, predict.sql_type_of((SELECT min(i.type) FROM predict.model_inputs i WHERE (i.model, i.version) = (of_model, of_version)), '{}') AS type, true AS single
          FROM jsonb_array_elements_text(features) WITH ORDINALITY f(name, n)
         UNION ALL
        SELECT i.name, i.position, predict.sql_type_of(i.type, '{}'), predict.elements_of(i.row_shape) = 1 FROM predict.model_inputs i
         WHERE features IS NULL AND (i.model, i.version) = (of_model, of_version)
    ), literal AS (
        SELECT w.name, w.n, CASE b.type WHEN 'number' THEN (SELECT CASE WHEN w.type IN ('smallint', 'integer', 'bigint') THEN round(x)::text WHEN w.type = 'real' THEN x::real::text ELSE x::text END
                                                              FROM (SELECT x, sum(n) OVER (ORDER BY x) AS place, sum(n) OVER () AS total FROM unnest(b.numbers, b.counts) u(x, n)) v
                                                             WHERE place >= total / 2 ORDER BY v.x LIMIT 1)
                                        ELSE b.categories[1] END AS value, w.type, b.type AS of
          FROM wanted w LEFT JOIN predict.baseline b ON (b.model, b.kind, b.name) = (of_model, 'feature', w.name) AND w.single
    )
    SELECT string_agg(predict.name_of(name), ', ' ORDER BY n),
           CASE WHEN bool_and(value IS NOT NULL AND type IS NOT NULL AND (of = 'number' AND value ~ '^-?[0-9.]+$' AND type <> 'text' OR type IN ('text', 'boolean')))
                THEN string_agg(CASE WHEN of = 'number' AND type <> 'text' THEN CASE WHEN value LIKE '-%' THEN predict.literal_of(value) ELSE value END ELSE predict.literal_of(value) END
                                 || CASE type WHEN 'text' THEN '' ELSE '::' || type END, ', ' ORDER BY n) END
      INTO columns, literals FROM literal;
    IF literals IS NULL THEN
        RETURN statement;
    END IF;
    RETURN format(E'SELECT p.*\n  FROM predictions((\n         SELECT predict_batch(%s, r)\n           FROM (VALUES (%s))\n                AS r(%s)\n       )) AS p(%s);', predict.literal_of(reference), literals, columns,
                  (SELECT string_agg(format('%s %s', predict.name_of(o.name), predict.sql_type_of(o.type, o.row_shape)), ', ' ORDER BY o.position) FROM predict.model_outputs o
                    WHERE (o.model, o.version) = (of_model, of_version)));
END $$;

-- What the model is, in tiles and facts, as the first thing on the page.
CREATE FUNCTION predict.report_head(reference text, facts jsonb) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_model text := predict.model_of(reference);
    of_version integer := predict.version_of(reference);
    m predict.models;
    speed predict.model_speeds;
    scored numeric;
    last_run predict.job_runs;
    checks text;
    drifted integer;
    moderate integer;
    lines integer;
BEGIN
    SELECT * INTO m FROM predict.models x WHERE (x.name, x.version) = (of_model, of_version);
    SELECT * INTO speed FROM predict.model_speeds x WHERE (x.model, x.version) = (of_model, of_version);
    SELECT sum(r.scored) INTO scored FROM predict.job j JOIN predict.job_run r ON r.job = j.id WHERE predict.model_of(j.model) = of_model;
    SELECT r.* INTO last_run FROM predict.job j JOIN predict.job_runs r ON (r.job, r.owner) = (j.name, pg_get_userbyid(j.owner)) WHERE predict.model_of(j.model) = of_model ORDER BY r.run DESC LIMIT 1;
    SELECT format('%s of %s', count(*) FILTER (WHERE r.passed), count(*)) INTO checks
      FROM predict.check_set c LEFT JOIN predict.check_result r ON (r.model, r.version, r.name) = (c.model, of_version, c.name) WHERE c.model = of_model HAVING count(*) > 0;
    SELECT count(*) FILTER (WHERE d->>'verdict' = 'drift'), count(*) FILTER (WHERE d->>'verdict' = 'moderate'), count(*) INTO drifted, moderate, lines FROM jsonb_array_elements(facts->'drift') d;
    RETURN format(E'<header>\n<h1>%s</h1>\n<p class="lead">%s%s</p>\n<ul class="tiles">%s</ul>\n'
                   '<nav aria-label="Parts of the report"><ul><li><a href="#signature">Signature</a></li><li><a href="#versions">Versions</a></li><li><a href="#jobs">Jobs</a></li>'
                   '<li><a href="#speed">Batch size</a></li><li><a href="#predictions">Predictions</a></li><li><a href="#drift">Drift</a></li></ul></nav>\n</header>\n',
        predict.html_of(of_model),
        format('Version %s%s, made %s by %s', of_version, (SELECT string_agg(' <span class="chip">' || predict.html_of(a) || '</span>', '') FROM unnest(m.aliases) a),
               predict.moment_of(m.created_at), predict.html_of(m.created_by)),
        coalesce('. ' || predict.html_of(nullif(m.metadata->>'description', '')), ''),
        (SELECT string_agg(format('<li><span>%s</span><strong>%s</strong>%s</li>', t.name, coalesce(t.value, '&#8211;'), coalesce('<span>' || t.more || '</span>', '')), '' ORDER BY n)
           FROM (VALUES (1, 'Rows scored', predict.figure_of(scored), CASE WHEN scored IS NULL THEN 'by no job yet' ELSE 'by jobs' END),
                        (2, 'Last run', predict.html_chip(last_run.status), predict.moment_of(last_run.started)),
                        (3, 'A row, last run', predict.duration_of(extract(epoch FROM last_run.finished - last_run.started)::float8 * 1e6 / nullif(last_run.rows, 0)), 'reading and writing'),
                        (4, 'A row, as probed', predict.duration_of(speed.row_micros), 'the model alone'),
                        (5, 'Golden rows', checks, CASE WHEN checks IS NULL THEN 'no checks to be seen' ELSE 'checks passed' END),
                        (6, 'Drift', CASE WHEN lines > 0 THEN predict.html_chip(CASE WHEN drifted > 0 THEN 'drift' WHEN moderate > 0 THEN 'moderate' ELSE 'ok' END) END,
                            CASE WHEN lines > 0 THEN format('%s of %s drift, %s moderate', drifted, lines, moderate) ELSE 'not compared' END)) t(n, name, value, more)));
END $$;

-- What the model takes and gives, and how it is called.
CREATE FUNCTION predict.report_signature(reference text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_model text := predict.model_of(reference);
    of_version integer := predict.version_of(reference);
    m predict.models;
    job predict.job := predict.job_of(of_model);
    runtime text;
    call text;
BEGIN
    SELECT * INTO m FROM predict.models x WHERE (x.name, x.version) = (of_model, of_version);
    BEGIN
        runtime := predict.html_of(predict.runtime());
    EXCEPTION WHEN OTHERS THEN
        runtime := 'not known: ' || predict.html_of(SQLERRM);
    END;
    BEGIN
        call := predict.html_statement(predict.example_call(reference), 'call');
    EXCEPTION WHEN OTHERS THEN
        call := predict.html_note(predict.html_of(SQLERRM));
    END;
    RETURN predict.html_part('signature', 'Signature',
        '<dl>' || (SELECT string_agg(format('<div><dt>%s</dt><dd>%s</dd></div>', f.name, f.value), '' ORDER BY n)
           FROM (VALUES (1, 'Owner', predict.html_of(m.owner)),
                        (2, 'Rows run together', predict.figure_of(m.batch_size)),
                        (3, 'Device', predict.html_of(coalesce(m.options->>'device', 'cpu'))),
                        (4, 'File', predict.figure_of(m.bytes) || ' bytes'),
                        (5, 'Made by', predict.html_of(m.metadata->>'producer')),
                        (6, 'Operator sets', (SELECT string_agg(predict.html_of(o.key || ' ' || o.value), ', ' ORDER BY o.key)
                                             FROM jsonb_each_text(CASE jsonb_typeof(m.metadata->'opsets') WHEN 'object' THEN m.metadata->'opsets' END) o)),
                        (7, 'Options', CASE WHEN m.options <> '{}' THEN predict.code_of(m.options::text) END),
                        (8, 'Tried when it was made', CASE WHEN m.verified THEN 'yes' ELSE coalesce('no: ' || predict.html_of(m.metadata->>'unverified'), 'no') END),
                        (9, 'SHA-256', predict.code_of(m.sha256)),
                        (10, 'ONNX Runtime here', runtime)) f(n, name, value) WHERE f.value IS NOT NULL) || E'</dl>\n<div class="pair"><div><h3>Takes of a row</h3>'
        || coalesce(predict.html_table('Inputs', '{Name,Type,Shape of a row}',
            (SELECT jsonb_agg(jsonb_build_array(predict.code_of(i.name), predict.html_of(i.type), predict.html_of(predict.shape_of(i.row_shape))) ORDER BY i.position)
               FROM predict.model_inputs i WHERE (i.model, i.version) = (of_model, of_version))), predict.html_note('Nothing.'))
        || coalesce('<p>The columns that fill it, in order: ' || (SELECT string_agg(predict.code_of(f), ', ' ORDER BY n)
                FROM jsonb_array_elements_text(CASE jsonb_typeof(m.options->'features') WHEN 'array' THEN m.options->'features' END) WITH ORDINALITY u(f, n)) || '.</p>', '')
        || '</div><div><h3>Gives</h3>'
        || coalesce(predict.html_table('Outputs', '{Name,Type,Shape of a row,In SQL}',
            (SELECT jsonb_agg(jsonb_build_array(predict.code_of(o.name), predict.html_of(o.type), predict.html_of(predict.shape_of(o.row_shape)),
                                                predict.code_of(predict.sql_type_of(o.type, o.row_shape))) ORDER BY o.position)
               FROM predict.model_outputs o WHERE (o.model, o.version) = (of_model, of_version))), predict.html_note('Nothing.'))
        || E'</div></div>\n<h3>A call that runs as it stands</h3>\n' || call
        || CASE WHEN job.id IS NULL THEN '' ELSE format(E'<h3>Over the rows of job %s</h3>\n', predict.html_of(job.name))
                    || predict.html_statement(format(E'SELECT p.*\n  FROM predictions((\n         SELECT predict_batch(%s, r)\n           FROM (%s LIMIT 10) AS r\n       )) AS p(%s, %s);', predict.literal_of(reference),
                                                     CASE WHEN job.source ~ '\n' OR job.source ~* '\mLIMIT\M|--|\mFETCH\M|\mFOR\M' THEN format(E'SELECT * FROM (\n%s\n) AS rows', job.source) ELSE job.source END,
                                                     (SELECT string_agg(format('%s %s', predict.name_of(k.name), c->>'type'), ', ' ORDER BY k.n) FROM unnest(job.key) WITH ORDINALITY k(name, n) JOIN jsonb_array_elements(job.columns) c ON c->>'name' = k.name),
                                                     (SELECT string_agg(format('%s %s', predict.name_of(o.name), predict.sql_type_of(o.type, o.row_shape)), ', ' ORDER BY o.position) FROM predict.model_outputs o
                                                       WHERE (o.model, o.version) = (of_model, of_version))), 'job-call') END);
END $$;

-- The versions, what golden rows said of them, and what was done to the model.
CREATE FUNCTION predict.report_versions(reference text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most_events CONSTANT integer := 40;
    of_model text := predict.model_of(reference);
    owns boolean := predict.owns_model(of_model);
    events bigint := (SELECT count(*) FROM predict.history h WHERE h.model = of_model);
BEGIN
    RETURN predict.html_part('versions', 'Versions and promotions',
        predict.html_table('Versions, newest first', '{#Version,Aliases,Made,By,#Bytes,#Batch size,Golden rows,Options}',
            (SELECT jsonb_agg(jsonb_build_array(v.version, (SELECT string_agg('<span class="chip">' || predict.html_of(a) || '</span>', ' ') FROM unnest(v.aliases) a), predict.moment_of(v.created_at),
                                                predict.html_of(v.created_by), predict.figure_of(v.bytes), predict.figure_of(v.batch_size),
                                                CASE WHEN owns THEN (SELECT string_agg(CASE WHEN r.passed THEN predict.html_chip('ok') ELSE predict.html_chip('failed') END || ' '
                                                                                       || predict.html_of(format('%s: %s of %s rows', r.name, r.rows - r.failed, r.rows)), '<br>' ORDER BY r.name)
                                                                       FROM predict.check_result r WHERE (r.model, r.version) = (of_model, v.version)) END,
                                                CASE WHEN v.options <> '{}' THEN predict.code_of(v.options::text) END) ORDER BY v.version DESC)
               FROM predict.models v WHERE v.name = of_model))
        || coalesce('<h3>History</h3>' || predict.html_table('What was done to the model, newest first', '{When,What,#Version,Alias,By,Detail}',
            (SELECT jsonb_agg(jsonb_build_array(predict.moment_of(h.at), predict.html_of(h.action), h.version, CASE WHEN h.alias IS NOT NULL THEN '<span class="chip">' || predict.html_of(h.alias) || '</span>' END,
                                                predict.html_of(h.role), predict.html_of(h.detail)) ORDER BY h.id DESC)
               FROM (SELECT * FROM predict.history x WHERE x.model = of_model ORDER BY x.id DESC LIMIT most_events) h HAVING count(*) > 0)), '')
        || CASE WHEN NOT owns THEN predict.html_note('The whole history and the golden rows are shown to the owner of the model.')
                WHEN events > most_events THEN predict.html_note(format('%s earlier events are in the view <code>predict.history</code>.', predict.figure_of(events - most_events))) ELSE '' END);
END $$;

-- The jobs that score with the model: rows and latency over their runs; and what the server counted of all its uses.
CREATE FUNCTION predict.report_jobs(reference text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most_jobs CONSTANT integer := 6;
    most_runs CONSTANT integer := 30;
    rows_shown CONSTANT integer := 12;
    errors_shown CONSTANT integer := 5;
    of_model text := predict.model_of(reference);
    j record;
    jobs bigint;
    n integer := 0;
    runs jsonb;
    errors jsonb;
    body text := '';
    counters text;
BEGIN
    SELECT count(*) INTO jobs FROM predict.job x WHERE predict.model_of(x.model) = of_model;
    FOR j IN SELECT x.*, l.last FROM predict.job x LEFT JOIN LATERAL (SELECT max(r.id) AS last FROM predict.job_run r WHERE r.job = x.id) l ON true
              WHERE predict.model_of(x.model) = of_model ORDER BY l.last DESC NULLS LAST, x.id LIMIT most_jobs
    LOOP
        n := n + 1;
        runs := (SELECT jsonb_agg(jsonb_build_object('run', r.id, 'version', r.version, 'status', r.status, 'started', r.started, 'scored', r.scored, 'skipped', r.skipped, 'failed', r.failed, 'rows', r.rows,
                                                     'deleted', r.deleted, 'chunks', r.chunks, 'resumed', r.resumed, 'message', r.message, 'micros', extract(epoch FROM r.finished - r.started)::float8 * 1e6,
                                                     'row_micros', extract(epoch FROM r.finished - r.started)::float8 * 1e6 / nullif(r.rows, 0)) ORDER BY r.id)
                   FROM (SELECT * FROM predict.job_run x WHERE x.job = j.id ORDER BY x.id DESC LIMIT most_runs) r);
        errors := (SELECT jsonb_agg(jsonb_build_array(e.run, predict.code_of(e.key::text), predict.code_of(e.sqlstate), predict.html_of(e.message)) ORDER BY e.id DESC)
                     FROM (SELECT x.* FROM predict.job_error x WHERE x.run IN (SELECT r.id FROM predict.job_run r WHERE r.job = j.id) ORDER BY x.id DESC LIMIT errors_shown) e);
        body := body || format(E'<h3>Job %s</h3>\n<p>Reads %s and writes %s, as role %s.</p>\n', predict.html_of(j.name), '<code>' || predict.html_lines(j.source) || '</code>', predict.code_of(j.target), predict.html_of(pg_get_userbyid(j.owner)));
        IF runs IS NULL THEN
            body := body || predict.html_note(format('It has not run yet: %s.', predict.code_of(format('CALL predict.run_job(%s)', predict.literal_of(j.name)))));
            CONTINUE;
        END IF;
        body := body || '<div class="pair">' || predict.chart_rows('job-' || n || '-rows', runs) || predict.chart_latency('job-' || n || '-latency', runs) || '</div>'
            || predict.html_table(format('Last runs of job %s, newest first', j.name), '{#Run,Status,Started,#Took,#Rows,#Scored,#Skipped,#Failed,#Version,#Time for a row,Message}',
                   (SELECT jsonb_agg(jsonb_build_array(r->>'run', predict.html_chip(r->>'status') || CASE WHEN (r->>'resumed')::boolean THEN ' resumed' ELSE '' END, predict.moment_of((r->>'started')::timestamptz),
                                                       predict.duration_of((r->>'micros')::float8), predict.figure_of((r->>'rows')::float8),
                                                       predict.figure_of((r->>'scored')::float8), predict.figure_of((r->>'skipped')::float8),
                                                       predict.figure_of((r->>'failed')::float8), r->>'version', predict.duration_of((r->>'row_micros')::float8), predict.html_of(r->>'message')) ORDER BY u.n DESC)
                      FROM jsonb_array_elements(runs) WITH ORDINALITY u(r, n) WHERE u.n > jsonb_array_length(runs) - rows_shown))
            || coalesce(predict.html_table(format('Last rows that failed in job %s', j.name), '{#Run,Key,SQLSTATE,Message}', errors), '');
    END LOOP;
    IF n = 0 THEN
        body := predict.html_note('No job that you may see scores with this model. One that does:')
            || predict.html_statement(format(E'SELECT predict.create_job(%s, %s, ''SELECT * FROM source'', ''id'', ''target'');\nCALL predict.run_job(%s);',
                                              predict.literal_of(of_model || ' nightly'), predict.literal_of(reference), predict.literal_of(of_model || ' nightly')));
    ELSIF jobs > most_jobs THEN
        body := body || predict.html_note(format('%s more jobs are in the view <code>predict.jobs</code>.', jobs - most_jobs));
    END IF;
    BEGIN
        counters := '<h3>All uses, since the server started</h3>' || predict.html_table('Counters of predict.stat_models',
            '{#Version,#Calls,#Rows,#NULL,#Failed,#Batches,#Rows a batch,#Model time a row,#Loads,#A load,#Errors,Last used}',
            (SELECT jsonb_agg(jsonb_build_array(s.version, predict.figure_of(s.calls), predict.figure_of(s.rows), predict.figure_of(s.null_rows), predict.figure_of(s.failed_rows), predict.figure_of(s.batches),
                                                predict.figure_of(s.rows::float8 / nullif(s.batches, 0)), predict.duration_of(s.run_time * 1e3 / nullif(s.rows, 0)), predict.figure_of(s.loads),
                                                predict.duration_of(s.load_time * 1e3 / nullif(s.loads, 0)), predict.figure_of(s.errors), predict.moment_of(s.last_used)) ORDER BY s.version DESC)
               FROM predict.stat_models s WHERE s.model = of_model));
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        counters := predict.html_note('Uses outside of jobs are counted where <code>shared_preload_libraries</code> names <code>pg_predict</code>.');
    END;
    RETURN predict.html_part('jobs', 'Jobs: rows and latency', body || counters);
END $$;

-- Batch size against throughput, as it was measured when the version was created.
CREATE FUNCTION predict.report_speed(reference text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s predict.model_speeds;
    best jsonb;
    known text;
BEGIN
    SELECT * INTO s FROM predict.model_speeds x WHERE (x.model, x.version) = (predict.model_of(reference), predict.version_of(reference));
    known := concat_ws(', ', format('a run of one row took %s', predict.duration_of(s.single_micros)), format('a row in a good batch %s', predict.duration_of(s.row_micros)));
    known := CASE WHEN s.row_micros IS NOT NULL THEN format('<p>When version %s was created, %s. Now %s rows are run together.</p>', s.version, known, predict.figure_of(s.batch_size)) ELSE '' END;
    IF s.sweep IS NULL OR jsonb_array_length(s.sweep) < 2 THEN
        RETURN predict.html_part('speed', 'Batch size and throughput', known
            || predict.html_note('Throughput by batch size was not measured for this version' || CASE WHEN s.batch_size = 1 THEN ', whose rows are run one by one.' ELSE '.' END));
    END IF;
    SELECT p INTO best FROM jsonb_array_elements(s.sweep) p ORDER BY (p->>1)::float8 / (p->>0)::float8 LIMIT 1;
    RETURN predict.html_part('speed', 'Batch size and throughput', known || '<div class="pair">' || predict.chart_speed('batches', s.sweep, s.batch_size) || '<div>'
        || predict.html_table('Runs of growing batches, as measured', '{#Rows together,#Time of the run,#Time for a row,#Rows a second}',
               (SELECT jsonb_agg(jsonb_build_array(predict.figure_of((p->>0)::float8), predict.duration_of((p->>1)::float8), predict.duration_of((p->>1)::float8 / (p->>0)::float8),
                                                   CASE WHEN p = best THEN '<strong>' || predict.figure_of((p->>0)::float8 / (p->>1)::float8 * 1e6) || '</strong>'
                                                        ELSE predict.figure_of((p->>0)::float8 / nullif((p->>1)::float8, 0) * 1e6) END) ORDER BY n)
                  FROM jsonb_array_elements(s.sweep) WITH ORDINALITY u(p, n))) || '</div></div>');
END $$;

-- Which rows are set beside the baseline, as HTML.
CREATE FUNCTION predict.compared_rows(facts jsonb) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN facts ? 'why' THEN predict.html_note(facts->>'why') || coalesce(predict.html_statement(facts->>'statement'), '')
                ELSE format('<p>%s rows%s, beside the %s rows of the baseline%s.</p>', predict.figure_of(max((d->>'rows')::float8)),
                            CASE WHEN facts->>'job' IS NULL THEN ' of the query' ELSE format(' of job %s%s', predict.code_of(facts->>'job'),
                                     CASE WHEN (facts->>'part')::integer > 1 THEN format(' (one in %s)', facts->>'part') ELSE '' END) END,
                            predict.figure_of(max((d->>'baseline_rows')::float8)), coalesce(' of version ' || (SELECT max(h->>'version') FROM jsonb_array_elements(facts->'histograms') h), '')) END
      FROM (SELECT 1) one LEFT JOIN jsonb_array_elements(facts->'drift') d ON true
$$;

-- How predictions are distributed, beside the baseline.
CREATE FUNCTION predict.report_predictions(facts jsonb) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH line AS (SELECT h, row_number() OVER (ORDER BY n) AS n, count(*) OVER () AS size FROM jsonb_array_elements(facts->'histograms') WITH ORDINALITY u(h, n) WHERE h->>'kind' = 'output'),
         drawn AS (SELECT string_agg(CASE h->>'type' WHEN 'number' THEN predict.chart_numbers('output-' || n, h, k.html) ELSE predict.chart_categories('output-' || n, h, k.html) END, '' ORDER BY n) AS charts,
                          bool_or((h->>'open')::boolean) AS open, max(size) AS size
                     FROM line, LATERAL (SELECT '<span class="key"><span><i class="base"></i>baseline</span>'
                                         || CASE WHEN h->'now' <> 'null' THEN ' <span><i class="now"></i>now</span>' WHEN facts ? 'job' THEN ' <span>&#160;&#183; not kept by the job</span>' ELSE '' END || '</span>' AS html) k WHERE n <= 16)
    SELECT predict.html_part('predictions', 'Predictions beside the baseline', predict.compared_rows(facts) || coalesce('<div class="pair">' || charts || '</div>', '')
        || CASE WHEN open THEN '<p class="key">The first and the last bar take what is beyond.</p>' ELSE '' END
        || CASE WHEN size > 16 THEN predict.html_note(format('%s more outputs are not drawn.', size - 16)) ELSE '' END) FROM drawn
$$;

-- How far each feature and output is from the baseline.
CREATE FUNCTION predict.report_drift(facts jsonb) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT predict.html_part('drift', 'Drift', predict.compared_rows(facts) || coalesce(predict.html_table('Figures as in predict.drift()',
            '{Name,Kind,Verdict,Baseline and now,#PSI,#KS,#&#967;&#178;,#p,#NULL,Why}',
            (SELECT jsonb_agg(jsonb_build_array(predict.code_of(d.name), d.kind, predict.html_chip(d.verdict),
                                                (SELECT predict.chart_small(h) FROM jsonb_array_elements(facts->'histograms') h WHERE (h->>'kind', h->>'name') = (d.kind, d.name) LIMIT 1),
                                                round(d.psi::numeric, 3), round(d.ks::numeric, 3), predict.figure_of(d.chi_squared),
                                                CASE WHEN d.p_value < 0.001 THEN '&lt; 0.001' ELSE round(d.p_value::numeric, 3)::text END,
                                                CASE WHEN d.baseline_null_rate = d.null_rate THEN predict.percent_of(d.null_rate)
                                                     ELSE concat_ws(' &#8594; ', predict.percent_of(d.baseline_null_rate), predict.percent_of(d.null_rate)) END,
                                                concat_ws(': ', predict.html_of(nullif(d.reason, '')),
                                                          (SELECT string_agg(predict.code_of(u), ', ' ORDER BY n) FROM unnest(d.unseen[1:5]) WITH ORDINALITY x(u, n)))) ORDER BY e.n)
               FROM jsonb_array_elements(facts->'drift') WITH ORDINALITY e(line, n),
                    jsonb_to_record(e.line) AS d(kind text, name text, verdict text, psi float8, ks float8, chi_squared float8, p_value float8,
                                                    baseline_null_rate float8, null_rate float8, unseen text[], unseen_rate float8, reason text)
             HAVING count(*) > 0)), ''))
$$;

-- The whole page. Its charset is what the client gets the text in. A part that fails, on what somebody wrote into a table by hand, says
-- so in its place.
CREATE FUNCTION predict.report_page(reference text, facts jsonb) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    page text := format(E'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="%s">\n', CASE pg_client_encoding() WHEN 'UTF8' THEN 'utf-8' WHEN 'SQL_ASCII' THEN 'utf-8'
                            ELSE regexp_replace(regexp_replace(lower(pg_client_encoding()), '^latin', 'iso-8859-'), '^win', 'windows-') END)
        || E'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        || E'<meta http-equiv="Content-Security-Policy" content="default-src ''none''; style-src ''unsafe-inline''">\n'
        || E'<meta name="generator" content="pg_predict">\n'
        || format(E'<title>%s: report of a model</title>\n<style>%s</style>\n</head>\n<body>\n', predict.html_of(predict.model_of(reference)), predict.report_style());
    part text;
BEGIN
    FOREACH part IN ARRAY '{head,signature,versions,jobs,speed,predictions,drift}'::text[] LOOP
        BEGIN
            page := page || CASE part
                WHEN 'head' THEN predict.report_head(reference, facts)
                WHEN 'signature' THEN predict.report_signature(reference)
                WHEN 'versions' THEN predict.report_versions(reference)
                WHEN 'jobs' THEN predict.report_jobs(reference)
                WHEN 'speed' THEN predict.report_speed(reference)
                WHEN 'predictions' THEN predict.report_predictions(facts)
                WHEN 'drift' THEN predict.report_drift(facts) END;
        EXCEPTION WHEN OTHERS THEN
            page := page || CASE part WHEN 'head' THEN format('<header><h1>%s</h1>%s</header>', predict.html_of(predict.model_of(reference)),
                                                                   predict.html_note('The figures could not be put together: ' || predict.html_of(SQLERRM)))
                                      ELSE predict.html_part(part, initcap(part), predict.html_note('This part could not be put together: ' || predict.html_of(SQLERRM))) END;
        END;
        page := page || CASE part WHEN 'head' THEN E'<main>\n' ELSE '' END;
    END LOOP;
    RETURN page || format(E'</main>\n<footer><p>Made %s (%s) in database %s by %s%s, for %s. Hold the pointer over a mark to see its figure.</p></footer>\n</body>\n</html>\n',
                          predict.moment_of(now()), predict.html_of(current_setting('TimeZone')), predict.code_of(current_database()),
                          predict.code_of(format('SELECT predict.report(%s)', predict.literal_of(reference))),
                          coalesce(' of pg_predict ' || (SELECT predict.html_of(e.extversion) FROM pg_extension e WHERE e.extname = 'pg_predict'), ''), predict.html_of(current_user));
END $$;

CREATE FUNCTION predict.report(model text, query text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    reference pg_catalog.text := pg_catalog.split_part(model, '/', 1);
    facts pg_catalog.jsonb;
BEGIN
    IF model IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'the model of predict.report() may not be NULL';
    END IF;
    -- Raises where there is no such version, or it is not the caller's to use.
    PERFORM predict.version_of(reference);
    IF query IS NULL THEN
        facts := predict.compare_job(reference);
    ELSE
        facts := predict.compare_staged(predict.stage(reference, query, 'drift', false), NULL);
    END IF;
    RETURN predict.report_page(reference, facts);
END $$;
COMMENT ON FUNCTION predict.report(text, text) IS
    'one page of HTML about a model: signature and a call, versions, jobs, throughput, and its predictions beside the baseline: those of the caller''s last job, or of the rows of a query';
