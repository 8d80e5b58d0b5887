-- Statistics: what was done with each version, the sessions that backends keep, and the queries that run.
--
-- They are counted in shared memory, which asks for shared_preload_libraries; without it these views raise 55000. The
-- functions below give JSON and decide what their caller may see: counters of models that he or she may use, sessions and
-- queries of roles that he or she is a member of, everything for members of pg_read_all_stats.

CREATE FUNCTION predict_internal.stat_models_json() RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'pg_predict_stat_models';
CREATE FUNCTION predict_internal.stat_sessions_json() RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'pg_predict_stat_sessions';
CREATE FUNCTION predict_internal.stat_progress_json() RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'pg_predict_stat_progress';

-- Microseconds from 1970 as a time.
CREATE FUNCTION predict_internal.moment(microseconds bigint) RETURNS timestamptz IMMUTABLE STRICT PARALLEL SAFE
    RETURN timestamptz 'epoch' + make_interval(secs => (microseconds / 1000000)::float8) + (microseconds % 1000000)::float8 * interval '1 microsecond';

CREATE VIEW predict.stat_models AS
SELECT v.model, v.number AS version,
       coalesce(s.calls, 0) AS calls, coalesce(s.rows, 0) AS rows, coalesce(s.null_rows, 0) AS null_rows,
       coalesce(s.failed_rows, 0) AS failed_rows, coalesce(s.batches, 0) AS batches,
       coalesce(s.run_time, 0) AS run_time, coalesce(s.wait_time, 0) AS wait_time, coalesce(s.tokens, 0) AS tokens,
       coalesce(s.loads, 0) AS loads, coalesce(s.load_time, 0) AS load_time, coalesce(s.evictions, 0) AS evictions,
       coalesce(s.errors, 0) AS errors, coalesce(s.process_crashes, 0) AS process_crashes,
       coalesce(s.process_kills, 0) AS process_kills, coalesce(s.process_cancels, 0) AS process_cancels, predict_internal.moment(s.last_used) AS last_used,
       s.last_error, predict_internal.moment(s.last_error_at) AS last_error_at, predict_internal.moment(s.stats_reset) AS stats_reset
  FROM predict.version v
  LEFT JOIN jsonb_to_recordset(predict_internal.stat_models_json()) AS s(
            model text, version integer, sha256 text, calls bigint, rows bigint, null_rows bigint, failed_rows bigint,
            batches bigint, run_time float8, wait_time float8, tokens bigint, loads bigint, load_time float8, evictions bigint,
            errors bigint, process_crashes bigint, process_kills bigint, process_cancels bigint, last_used bigint, last_error text, last_error_at bigint, stats_reset bigint)
         ON s.model = v.model AND s.version = v.number AND s.sha256 = encode(v.hash, 'hex')
 WHERE predict.may_use_model(v.model) OR pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW predict.stat_models IS 'one row a version: calls, rows, batches, times in milliseconds, since the server started or stats_reset';

CREATE VIEW predict.stat_sessions AS
SELECT s.pid, s.model, s.version, s.bytes, s.device, s.threads, predict_internal.moment(s.loaded_at) AS loaded_at,
       predict_internal.moment(s.last_used) AS last_used, clock_timestamp() - predict_internal.moment(s.last_used) AS idle
  FROM jsonb_to_recordset(predict_internal.stat_sessions_json()) AS s(
       pid integer, model text, version integer, bytes bigint, device text, threads integer, loaded_at bigint, last_used bigint);
COMMENT ON VIEW predict.stat_sessions IS 'one row a loaded version in a backend of this database';

CREATE VIEW predict.stat_progress AS
SELECT p.pid, p.leader_pid, p.model, p.version, p.form, p.phase, p.rows_done, p.rows_expected, p.batches,
       p.rows_done / nullif(extract(epoch FROM clock_timestamp() - predict_internal.moment(p.started))::float8, 0) AS rows_per_second,
       predict_internal.moment(p.started) AS started
  FROM jsonb_to_recordset(predict_internal.stat_progress_json()) AS p(
       pid integer, leader_pid integer, model text, version integer, form text, phase text, rows_done bigint, rows_expected bigint,
       batches bigint, started bigint);
COMMENT ON VIEW predict.stat_progress IS 'one row a call under way in a backend of this database, parallel workers each';

CREATE FUNCTION predict_internal.model_processes_json() RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'pg_predict_model_processes';
CREATE VIEW predict.model_processes AS
SELECT p.pid, p.backend_pid, p.memory, p.models, clock_timestamp() - predict_internal.moment(p.last_used) AS idle
  FROM jsonb_to_recordset(predict_internal.model_processes_json()) AS p(
       pid integer, backend_pid integer, memory bigint, models integer, last_used bigint);
COMMENT ON VIEW predict.model_processes IS 'one row per model process of a backend of this database, with its resident memory in bytes';

GRANT SELECT ON predict.stat_models, predict.stat_sessions, predict.stat_progress, predict.model_processes TO PUBLIC;

CREATE FUNCTION predict.sandbox() RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'pg_predict_sandbox';
COMMENT ON FUNCTION predict.sandbox() IS 'what the sandbox of the model process of this session enforces; starts the process if there is none';

CREATE FUNCTION predict.end_model_process() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_end_model_process';
COMMENT ON FUNCTION predict.end_model_process() IS 'ends the model process of this session and returns whether there was one';

CREATE FUNCTION predict.stat_reset(model text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pg_predict_stat_reset';
COMMENT ON FUNCTION predict.stat_reset(text) IS 'set the counters of a model of this database to zero, or of all';
REVOKE EXECUTE ON FUNCTION predict.stat_reset(text) FROM PUBLIC;
