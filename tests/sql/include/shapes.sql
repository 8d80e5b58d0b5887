-- What the tests of the BatchPredict node share: what a statement gives, and its plan.
\set ECHO none
\set QUIET on

-- What a statement gives: each row as text, then how it ended. Its parameter, if it has one, is `argument`.
CREATE FUNCTION outcome(statement text, argument text DEFAULT NULL) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    r record;
    rows text[] := '{}';
    state text; message text; detail text; hint text;
BEGIN
    BEGIN
        IF statement LIKE 'MERGE%' THEN
            EXECUTE statement USING argument;
            RETURN array['done'];
        END IF;
        FOR r IN EXECUTE statement USING argument LOOP
            rows := rows || r::text;
        END LOOP;
        RETURN rows || 'done'::text;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        RETURN array[format('%s: %s (%s) (%s)', state, message, detail, hint)];
    END;
END $$;
-- Plans are those of the statistics that a test made: nothing renews them meanwhile.
CREATE PROCEDURE keep_statistics() LANGUAGE plpgsql AS $$
DECLARE
    t regclass;
BEGIN
    FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'test'::regnamespace AND relkind = 'r' LOOP
        EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', t);
    END LOOP;
END $$;
-- Plans are those of models that cost the same everywhere: what was measured here is another time's and another machine's.
CREATE PROCEDURE keep_costs() LANGUAGE sql AS $$
    UPDATE predict.version SET signature = signature || '{"single_micros": 12.5, "row_micros": 12.5}'
$$;
\set QUIET off
\set ECHO all
