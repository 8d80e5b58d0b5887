-- The tables of jobs, their runs and their failed rows. Row level security shows them to members of the role that owns the job.

CREATE TABLE predict.job (
    id                integer      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- A role, and not its name: whoever is called like it later is another one. Of a role that is gone it is not dumped: it would be
    -- restored as a number, which may be somebody else's there.
    owner             regrole      NOT NULL,
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
    key       jsonb        NOT NULL,
    sqlstate  text         NOT NULL,
    message   text         NOT NULL,
    detail    text,
    at        timestamptz  NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX job_error_run ON predict.job_error (run);

SELECT pg_catalog.pg_extension_config_dump('predict.job', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = owner)');
SELECT pg_catalog.pg_extension_config_dump('predict.job_run', '');
SELECT pg_catalog.pg_extension_config_dump('predict.job_error', '');
SELECT pg_catalog.pg_extension_config_dump('predict.job_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('predict.job_run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('predict.job_error_id_seq', '');

ALTER TABLE predict.job ENABLE ROW LEVEL SECURITY;
ALTER TABLE predict.job_run ENABLE ROW LEVEL SECURITY;
ALTER TABLE predict.job_error ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON predict.job FOR SELECT USING (pg_has_role(owner::oid, 'USAGE'));
-- Whoever sees a job sees what belongs to it.
CREATE POLICY seen ON predict.job_run FOR SELECT USING (EXISTS (SELECT FROM predict.job j WHERE j.id = job_run.job));
CREATE POLICY seen ON predict.job_error FOR SELECT USING (EXISTS (SELECT FROM predict.job_run r WHERE r.id = job_error.run));
GRANT SELECT ON predict.job, predict.job_run, predict.job_error TO PUBLIC;
