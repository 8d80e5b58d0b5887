-- The tables of checks and of history. Row level security shows them to the owner of the model.

-- Golden rows. `columns` are those of a row, each with its type; the rows themselves are JSON, which holds each value exactly.
CREATE TABLE predict.check_set (
    model       text         COLLATE "C" NOT NULL,
    name        text         COLLATE "C" NOT NULL CHECK (name <> ''),
    columns     jsonb        NOT NULL,
    tolerance   float8       NOT NULL CHECK (tolerance >= 0),
    query       text         NOT NULL,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    created_by  name         NOT NULL DEFAULT current_user,
    PRIMARY KEY (model, name)
);
CREATE TABLE predict.check_row (
    model     text     COLLATE "C" NOT NULL,
    name      text     COLLATE "C" NOT NULL,
    position  integer  NOT NULL,
    input     jsonb    NOT NULL,
    expected  jsonb    NOT NULL,
    PRIMARY KEY (model, name, position)
);
CREATE TABLE predict.check_result (
    model    text         COLLATE "C" NOT NULL,
    version  integer      NOT NULL,
    name     text         COLLATE "C" NOT NULL,
    passed   boolean      NOT NULL,
    rows     integer      NOT NULL,
    failed   integer      NOT NULL,
    worst    float8,
    runtime  text         NOT NULL,
    at       timestamptz  NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (model, version, name)
);

-- What was done to models. Written by the registry's functions alone. `actor` is the role that did it, which a later role of the
-- same name is not. What was done to a model that is gone says nothing to the owner of a later one of its name.
CREATE TABLE predict.event (
    id       bigint       GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz  NOT NULL DEFAULT clock_timestamp(),
    role     name         NOT NULL,
    model    text         COLLATE "C" NOT NULL,
    action   text         NOT NULL,
    version  integer,
    alias    text,
    detail   text,
    actor    oid          NOT NULL,
    gone     boolean      NOT NULL DEFAULT false
);
CREATE INDEX event_model ON predict.event (model);

SELECT pg_catalog.pg_extension_config_dump('predict.check_set', '');
SELECT pg_catalog.pg_extension_config_dump('predict.check_row', '');
SELECT pg_catalog.pg_extension_config_dump('predict.check_result', '');
SELECT pg_catalog.pg_extension_config_dump('predict.event', '');
SELECT pg_catalog.pg_extension_config_dump('predict.event_id_seq', '');

ALTER TABLE predict.check_set ENABLE ROW LEVEL SECURITY;
ALTER TABLE predict.check_row ENABLE ROW LEVEL SECURITY;
ALTER TABLE predict.check_result ENABLE ROW LEVEL SECURITY;
ALTER TABLE predict.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY owner ON predict.check_set FOR SELECT USING (predict.owns_model(model));
CREATE POLICY owner ON predict.check_row FOR SELECT USING (predict.owns_model(model));
CREATE POLICY owner ON predict.check_result FOR SELECT USING (predict.owns_model(model));
CREATE POLICY owner ON predict.event FOR SELECT USING (NOT gone AND predict.owns_model(model));
CREATE POLICY actor ON predict.event FOR SELECT USING (role = current_user AND actor = (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user));
GRANT SELECT ON predict.check_set, predict.check_row, predict.check_result, predict.event TO PUBLIC;
