-- Records of jobs: the functions that write jobs, their runs and their failed rows on behalf of a role
-- (src/api/behalf.rs), and the lock of a job.

-- Makes a job, or changes the one of that id; gives its id. What was scored so far is of another job where what it scores changes.
CREATE FUNCTION predict_internal.put_job(job predict.job) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.put_job(caller oid, job predict.job) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made bigint;
BEGIN
    IF job.id IS NULL THEN
        INSERT INTO predict.job (owner, name, model, source, key, target, options, columns, search_path)
        VALUES (caller::regrole, job.name, job.model, job.source, job.key, job.target, job.options, job.columns, job.search_path) RETURNING id INTO made;
        RETURN made;
    END IF;
    UPDATE predict.job x
       SET (model, source, key, target, options, columns, search_path) = (job.model, job.source, job.key, job.target, job.options, job.columns, job.search_path),
           (reached, reached_version) = (SELECT k.reached, k.reached_version FROM (SELECT x.reached, x.reached_version) k
                                          WHERE (x.model, x.source, x.key, x.target, x.options->'columns') IS NOT DISTINCT FROM (job.model, job.source, job.key, job.target, job.options->'columns'))
     WHERE x.id = job.id AND x.owner = caller;
    RETURN CASE WHEN FOUND THEN job.id END;
END $$;

-- Forgets a job with its runs and errors.
CREATE FUNCTION predict_internal.forget_job(job integer) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.forget_job(caller oid, job integer) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    DELETE FROM predict.job x WHERE x.id = job AND x.owner = caller;
    IF FOUND THEN
        DELETE FROM predict.job_error e USING predict.job_run r WHERE r.id = e.run AND r.job = job;
        DELETE FROM predict.job_run r WHERE r.job = job;
    END IF;
    RETURN FOUND::integer;
END $$;

-- Begins a run, and ends those that ended without a word; gives its id.
CREATE FUNCTION predict_internal.put_run(job integer, version integer, resumed boolean) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.put_run(caller oid, job integer, version integer, resumed boolean) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made bigint;
BEGIN
    IF EXISTS (SELECT FROM predict.job x WHERE x.id = job AND x.owner = caller) THEN
        UPDATE predict.job_run r SET (status, finished) = ('interrupted', clock_timestamp()) WHERE r.job = job AND r.status = 'running';
        INSERT INTO predict.job_run (job, version, resumed) VALUES (job, version, resumed) RETURNING id INTO made;
    END IF;
    RETURN made;
END $$;

-- Keeps what failed in a run. `uncounted`: rows that no chunk counts.
CREATE FUNCTION predict_internal.put_error(run bigint, key jsonb, sqlstate text, message text, detail text, uncounted bigint) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.put_error(caller oid, run bigint, key jsonb, sqlstate text, message text, detail text, uncounted bigint) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    UPDATE predict.job_run r SET failed = r.failed + uncounted FROM predict.job x WHERE r.id = run AND r.status = 'running' AND x.id = r.job AND x.owner = caller;
    IF FOUND THEN
        INSERT INTO predict.job_error (run, key, sqlstate, message, detail) VALUES (run, key, sqlstate, message, detail);
    END IF;
    RETURN FOUND::integer;
END $$;

-- Counts a chunk, and keeps how far the job has come; the last one ends the run. Gives 1 where every row of a run that ends has failed,
-- and NULL where the job is gone.
CREATE FUNCTION predict_internal.put_chunk(run bigint, reached jsonb, rows bigint, scored bigint, failed bigint, deleted bigint) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.put_chunk(caller oid, run bigint, reached jsonb, rows bigint, scored bigint, failed bigint, deleted bigint) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    all_failed boolean;
BEGIN
    UPDATE predict.job x SET (reached, reached_version) = (reached, CASE WHEN reached IS NOT NULL THEN r.version END)
      FROM predict.job_run r WHERE r.id = run AND r.status = 'running' AND x.id = r.job AND x.owner = caller;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE predict.job_run r
       SET chunks = r.chunks + (reached IS NOT NULL)::integer, rows = r.rows + rows, scored = r.scored + scored, failed = r.failed + failed,
           skipped = r.skipped + rows - scored - failed, deleted = r.deleted + deleted,
           status = CASE WHEN reached IS NULL THEN 'succeeded' ELSE 'running' END, finished = CASE WHEN reached IS NULL THEN clock_timestamp() END
     WHERE r.id = run RETURNING reached IS NULL AND r.scored = 0 AND r.skipped = 0 AND r.failed > 0 INTO all_failed;
    RETURN all_failed::integer;
END $$;

-- Ends a run that failed.
CREATE FUNCTION predict_internal.put_failure(run bigint, message text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.put_failure(caller oid, run bigint, message text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    UPDATE predict.job_run r SET (status, finished, message) = ('failed', clock_timestamp(), message)
      FROM predict.job x WHERE r.id = run AND r.status = 'running' AND x.id = r.job AND x.owner = caller;
    RETURN FOUND::integer;
END $$;

-- Forgets the runs of long ago, and what failed in them.
CREATE FUNCTION predict_internal.forget_runs(job integer, kept integer) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_on_behalf';
CREATE FUNCTION predict_internal.forget_runs(caller oid, job integer, kept integer) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    oldest bigint := (SELECT min(k.id) FROM (SELECT r.id FROM predict.job_run r JOIN predict.job x ON x.id = r.job
                                              WHERE x.id = job AND x.owner = caller ORDER BY r.id DESC LIMIT kept) k);
BEGIN
    DELETE FROM predict.job_error e USING predict.job_run r WHERE r.id = e.run AND r.job = job AND r.id < oldest;
    DELETE FROM predict.job_run r WHERE r.job = job AND r.id < oldest;
    RETURN oldest;
END $$;

-- The lock of a job of the caller's, for this session: false where another one has it.
CREATE FUNCTION predict_internal.lock_job(job integer) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_lock_job';
CREATE FUNCTION predict_internal.unlock_job(job integer) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_unlock_job';

-- Whether the procedure that asks may commit: not in a transaction block, a function, or a string of several statements.
CREATE FUNCTION predict_internal.may_commit() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_may_commit';

REVOKE EXECUTE ON FUNCTION predict_internal.put_job(oid, predict.job), predict_internal.forget_job(oid, integer), predict_internal.put_run(oid, integer, integer, boolean),
    predict_internal.put_error(oid, bigint, jsonb, text, text, text, bigint), predict_internal.put_chunk(oid, bigint, jsonb, bigint, bigint, bigint, bigint),
    predict_internal.put_failure(oid, bigint, text), predict_internal.forget_runs(oid, integer, integer) FROM PUBLIC;
