-- The table of baselines. Row level security shows them to the owner of the model.

-- `numbers` are in rising order, `categories` by falling count; `counts` belongs to whichever the line has. A line that is exact has
-- every value. Otherwise numbers are 100,000 of their order statistics, evenly spaced by rank, each with the count of the
-- values above the one before it; categories are the 1,000 most frequent, and `rest` counts the values that are none of them.
CREATE TABLE predict.baseline (
    model       text         COLLATE "C" NOT NULL,
    version     integer      NOT NULL,
    kind        text         COLLATE "C" NOT NULL CHECK (kind IN ('feature', 'output')),
    name        text         COLLATE "C" NOT NULL,
    position    integer      NOT NULL,
    type        text         COLLATE "C" NOT NULL CHECK (type IN ('number', 'category')),
    rows        bigint       NOT NULL CHECK (rows > 0),
    nulls       bigint       NOT NULL,
    nans        bigint       NOT NULL,
    exact       boolean      NOT NULL,
    numbers     float8[],
    categories  text[]       COLLATE "C",
    counts      bigint[]     NOT NULL,
    rest        bigint       NOT NULL,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    created_by  name         NOT NULL DEFAULT current_user,
    PRIMARY KEY (model, kind, name)
);
SELECT pg_catalog.pg_extension_config_dump('predict.baseline', '');
ALTER TABLE predict.baseline ENABLE ROW LEVEL SECURITY;
CREATE POLICY owner ON predict.baseline FOR SELECT USING (predict.owns_model(model));
GRANT SELECT ON predict.baseline TO PUBLIC;
