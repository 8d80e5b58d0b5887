-- The schemas, and the tables of the registry: models, versions, aliases, privileges and the bytes of the models.
--
-- sql/tables/ holds what is created once and keeps its rows: schemas, tables, types, policies. sql/functions/ holds what an
-- upgrade may define anew: functions, views, aggregates, casts. src/lib.rs lists the files in the order of installation.
--
-- A version is immutable. Its bytes are stored once per content under their sha256, in chunks, so that no reader needs all of
-- them in one datum. They do not compress, so TOAST does not try. Every table is dumped with the extension. There are no
-- foreign keys: a parallel restore loads the tables in any order. The functions are the only writers, and keep the tables
-- consistent with row locks. PUBLIC has no right to the tables: the functions read them as their owner and check the caller.
--
-- Names in the install script are looked up in pg_catalog alone. An object of another role in the schema of the extension is
-- never taken for one of PostgreSQL's, even if its argument types fit better. Nothing is created with OR REPLACE or
-- IF NOT EXISTS, so an object that already exists stops the script. No other role can create objects in predict or
-- predict_internal.

SET LOCAL search_path = pg_catalog, pg_temp;

-- The public interface. The tables of the registry are here too.
CREATE SCHEMA predict;
GRANT USAGE ON SCHEMA predict TO PUBLIC;

-- What users do not call: functions of types, aggregates and the planner, and those that public functions and views call. These
-- run with the rights of the caller, so PUBLIC needs USAGE. The schema holds no table.
CREATE SCHEMA predict_internal;
GRANT USAGE ON SCHEMA predict_internal TO PUBLIC;

CREATE TABLE predict.content (
    hash   bytea   PRIMARY KEY CHECK (length(hash) = 32),
    bytes  bigint  NOT NULL CHECK (bytes > 0)
);

CREATE TABLE predict.chunk (
    hash      bytea    NOT NULL,
    position  integer  NOT NULL CHECK (position >= 0),
    data      bytea    NOT NULL,
    PRIMARY KEY (hash, position)
);
ALTER TABLE predict.chunk ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE predict.model (
    name          text         COLLATE "C" PRIMARY KEY,
    last_version  integer      NOT NULL DEFAULT 0,
    created_at    timestamptz  NOT NULL DEFAULT now()
);

CREATE TABLE predict.version (
    model       text         COLLATE "C" NOT NULL,
    number      integer      NOT NULL CHECK (number > 0),
    hash        bytea        NOT NULL,
    parts       bytea[]      NOT NULL DEFAULT '{}',
    signature   jsonb        NOT NULL,
    options     jsonb        NOT NULL,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    created_by  name         NOT NULL DEFAULT session_user,
    PRIMARY KEY (model, number)
);
CREATE INDEX version_hash ON predict.version (hash);

CREATE TABLE predict.alias (
    model    text     COLLATE "C" NOT NULL,
    alias    text     COLLATE "C" NOT NULL,
    version  integer  NOT NULL,
    PRIMARY KEY (model, alias)
);

-- Apart from the models, so that a dump restored where a role is missing loses a privilege and never a model. A role that is
-- gone keeps its row, which is nobody's, until the next grant clears it away. It is not dumped: it would be restored as a
-- number, which may be somebody else's there.
CREATE TABLE predict.privilege (
    model      text     COLLATE "C" NOT NULL,
    role       regrole  NOT NULL,
    privilege  text     NOT NULL CHECK (privilege IN ('owner', 'usage')),
    PRIMARY KEY (model, role, privilege)
);

SELECT pg_catalog.pg_extension_config_dump('predict.content', '');
SELECT pg_catalog.pg_extension_config_dump('predict.chunk', '');
SELECT pg_catalog.pg_extension_config_dump('predict.model', '');
SELECT pg_catalog.pg_extension_config_dump('predict.version', '');
SELECT pg_catalog.pg_extension_config_dump('predict.alias', '');
SELECT pg_catalog.pg_extension_config_dump('predict.privilege', 'WHERE (role = 0 OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = role))');
