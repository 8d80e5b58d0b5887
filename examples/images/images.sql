-- Images from bytea: which lines of print are upside down?
--
--   psql -v root=REPOSITORY -f examples/images/images.sql
--
-- Needs target/models/text_line.onnx: make examples makes it. An image is 48 x 192 gray pixels, a byte each, as a bytea.
\set schema example_images
\ir ../start.sql
\setenv PG_PREDICT_ROOT :root

CREATE TABLE lines (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, printed text, upside_down boolean, pixels bytea);
\copy lines (printed, upside_down, pixels) FROM PROGRAM 'gzip -dc "$PG_PREDICT_ROOT"/examples/images/lines.csv.gz' WITH (FORMAT csv)

-- The preparation of an image (gray to colour, bytes to numbers around 0) is part of the graph: SQL hands over what is stored.
SELECT count(predict.drop_model(name)) AS dropped FROM (SELECT DISTINCT name FROM predict.models WHERE name = 'example_text_line') m \gset
\set model `base64 < "$PG_PREDICT_ROOT"/target/models/text_line.onnx | tr -d '\n'`
SELECT predict.create_model('example_text_line', decode(:'model', 'base64')) AS version;
SELECT name, type, row_shape FROM predict.model_inputs WHERE model = 'example_text_line';

CREATE TABLE judged AS
SELECT p.*, p.turned > 0.5 AS looks_turned
  FROM predictions((SELECT predict_batch('example_text_line', l) FROM lines l))
    AS p(id integer, printed text, upside_down boolean, turned real);

SELECT printed, upside_down, looks_turned, round(turned::numeric, 3) AS turned FROM judged ORDER BY id LIMIT 6;
SELECT upside_down, count(*) AS lines, count(*) FILTER (WHERE looks_turned = upside_down) AS right FROM judged GROUP BY 1 ORDER BY 1;

-- An array of the pixels is the same image.
SELECT printed, predict('example_text_line/turned', pixels) = predict('example_text_line/turned',
       (SELECT array_agg(get_byte(pixels, i)::smallint ORDER BY i) FROM generate_series(0, length(pixels) - 1) i)) AS same
  FROM lines WHERE id = 2;

DO $$
BEGIN
    ASSERT (SELECT count(*) = (SELECT count(*) FROM lines) FROM judged), 'every image is judged';
    ASSERT (SELECT avg((looks_turned = upside_down)::int) > 0.8 FROM judged), 'most images are judged right';
END $$;
