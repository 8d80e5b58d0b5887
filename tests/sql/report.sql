-- report: what a name contains is text on the page of predict.report(), in every encoding; and what cannot be rendered is an error.

\getenv tests PG_ABS_SRCDIR
\set start :tests '/sql/include/start.sql'
\i :start

CREATE TABLE rows (id integer PRIMARY KEY, a real, b real, c real);
INSERT INTO rows SELECT i, i, i, i FROM generate_series(1, 10) i;

-- Names that would be markup, of a model, an alias, a check and a job, are no elements of the page.
\set model '<script>alert(1)'
\set alias '<img src=x onerror=alert(2)>'
\set check '"><svg onload=alert(3)>'
\set job '</title></code><script>alert(4)</script>&amp;'
SELECT predict.create_model(:'model', model('named'));
SELECT predict.set_alias(:'model', :'alias', 1);
SELECT predict.add_checks(:'model', 'SELECT a, b, c FROM rows', :'check');
SELECT passed FROM predict.check(:'model');
SELECT predict.set_baseline(:'model', 'SELECT * FROM rows');
SELECT predict.create_job(:'job', :'model', 'SELECT *, ''<iframe>'' AS note FROM rows', 'id', 'scores');
CALL predict.run_job(:'job');
CREATE TABLE page AS SELECT predict.report(:'model') AS html;
SELECT DISTINCT found[1] AS element FROM page, regexp_matches(html, '<([a-z]+)', 'g') found
 WHERE found[1] IN ('script', 'img', 'iframe') OR html ~ '<[^>]*\son[a-z]+=';
SELECT name, html LIKE '%' || written || '%' AS written FROM page, (VALUES
    ('model', '<h1>&lt;script&gt;alert(1)</h1>'),
    ('alias', '<span class="chip">&lt;img src=x onerror=alert(2)&gt;</span>'),
    ('check', '&quot;&gt;&lt;svg onload=alert(3)&gt;: 10 of 10 rows'),
    ('job', '<h3>Job &lt;/title&gt;&lt;/code&gt;&lt;script&gt;alert(4)&lt;/script&gt;&amp;amp;</h3>'),
    ('source', 'SELECT *, &#39;&lt;iframe&gt;&#39; AS note FROM rows')) v(name, written);

-- Whatever the encodings of database and client are, the page is right: it is ASCII.
SELECT predict.create_model(U&'Gr\00F6\00DFe \2192 \+01F600', model('named'));
SELECT html LIKE '<!DOCTYPE html>%' AS page, html ~ '[^\x01-\x7f]' AS beyond, html LIKE '%<h1>Gr&#246;&#223;e &#8594; &#128512;</h1>%' AS written
  FROM predict.report(U&'Gr\00F6\00DFe \2192 \+01F600') html;

-- Facts that the page cannot be rendered from are an error, and no broken page.
SELECT line FROM attempt($$SELECT predict_internal.render_report('{}')$$) line WHERE line NOT LIKE 'DETAIL: %';
SELECT line FROM attempt($$SELECT predict_internal.render_report('[1, 2]')$$) line WHERE line NOT LIKE 'DETAIL: %';
SELECT predict_internal.render_report(NULL) IS NULL AS nothing;
