-- The public interface: whoever changes it changes this list. The schema predict_internal is not part of it.
SET search_path = pg_catalog;
\pset format unaligned
\pset tuples_only on
CREATE TEMPORARY VIEW member AS
SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON (d.refclassid, d.refobjid) = ('pg_extension'::regclass, e.oid)
 WHERE e.extname = 'pg_predict' AND d.deptype = 'e';
-- Functions, aggregates and procedures.
SELECT format('%s %s.%s(%s)%s', CASE p.prokind WHEN 'f' THEN 'function' WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'window' END,
              n.nspname, p.proname, pg_get_function_arguments(p.oid), ' returns ' || pg_get_function_result(p.oid)) COLLATE "C" AS line
  FROM member m JOIN pg_proc p ON (m.classid, m.objid) = ('pg_proc'::regclass, p.oid) JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname <> 'predict_internal' ORDER BY 1;
-- Types; those of tables and arrays are not listed.
SELECT format('type %s.%s', n.nspname, t.typname) COLLATE "C" AS line
  FROM member m JOIN pg_type t ON (m.classid, m.objid) = ('pg_type'::regclass, t.oid) JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname <> 'predict_internal' AND t.typrelid = 0 AND t.typelem = 0 ORDER BY 1;
-- Casts.
SELECT format('cast from %s to %s, %s', c.castsource::regtype, c.casttarget::regtype, CASE c.castcontext WHEN 'e' THEN 'explicit' WHEN 'a' THEN 'assignment' ELSE 'implicit' END) COLLATE "C" AS line
  FROM member m JOIN pg_cast c ON (m.classid, m.objid) = ('pg_cast'::regclass, c.oid) ORDER BY 1;
-- Views and their columns, in order.
SELECT format('view %s.%s(%s)', n.nspname, c.relname,
              (SELECT string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
                 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) COLLATE "C" AS line
  FROM member m JOIN pg_class c ON (m.classid, m.objid) = ('pg_class'::regclass, c.oid) JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'v' ORDER BY 1;
-- Settings, and who may change them.
LOAD 'pg_predict';
SELECT format('setting %s, %s, %s', s.name, s.vartype, s.context) COLLATE "C" AS line
  FROM pg_settings s WHERE s.name LIKE 'pg\_predict.%' ORDER BY 1;
-- The other relations: tables and their sequences, which are not for users, in predict alone.
SELECT DISTINCT format('%s in %s', CASE c.relkind WHEN 'r' THEN 'table' WHEN 'S' THEN 'sequence' ELSE c.relkind::text END, n.nspname) COLLATE "C" AS line
  FROM member m JOIN pg_class c ON (m.classid, m.objid) = ('pg_class'::regclass, c.oid) JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind <> 'v' ORDER BY 1;
