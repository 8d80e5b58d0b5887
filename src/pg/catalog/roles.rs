//! Roles: the caller, the caller's privileges, and running code as the owner of the registry.

use pgrx::pg_sys::{self, Oid};

/// The role whose privileges the query has.
pub(crate) fn caller() -> Oid {
    // SAFETY: reads a variable.
    unsafe { pg_sys::GetUserId() }
}

/// The name of a role.
pub(crate) fn role_name(role: Oid) -> String {
    // SAFETY: returns a palloc'd name, or raises an error if the role no longer exists.
    crate::pg::text::copied(unsafe { pg_sys::GetUserNameFromId(role, false) })
}

/// Returns the role with this name. `public` is the pseudo-role of all users, OID 0.
pub(crate) fn role_named(name: &str) -> Option<Oid> {
    if name.eq_ignore_ascii_case("public") {
        return Some(Oid::INVALID);
    }
    let name = crate::pg::text::c(name);
    // SAFETY: looks up a name; returns 0 if there is no such role.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != Oid::INVALID).then_some(role)
}

/// Whether the caller has the privileges of a role. True for `public`, and for superusers.
pub(crate) fn caller_is(role: Oid) -> bool {
    // SAFETY: reads the role cache.
    role == Oid::INVALID || unsafe { pg_sys::has_privs_of_role(caller(), role) }
}

/// Whether the caller is a superuser.
pub(crate) fn caller_is_superuser() -> bool {
    // SAFETY: reads the role cache.
    unsafe { pg_sys::superuser() }
}

/// Whether the caller may read files on the server.
pub(crate) fn caller_reads_files() -> bool {
    caller_is(pg_sys::Oid::from(pg_sys::ROLE_PG_READ_SERVER_FILES))
}

/// Whether the caller may read all statistics.
pub(crate) fn caller_reads_all_stats() -> bool {
    caller_is(pg_sys::Oid::from(pg_sys::ROLE_PG_READ_ALL_STATS))
}

/// Whether the caller may execute a function.
pub(crate) fn may_execute(function: Oid) -> bool {
    let caller = caller();
    // SAFETY: reads the function cache.
    unsafe {
        #[cfg(feature = "pg15")]
        let result = pg_sys::pg_proc_aclcheck(function, caller, pg_sys::ACL_EXECUTE);
        #[cfg(not(feature = "pg15"))]
        let result = pg_sys::object_aclcheck(pg_sys::ProcedureRelationId, function, caller, pg_sys::ACL_EXECUTE.into());
        result == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Raises PostgreSQL's error if the caller may not execute a function.
pub(crate) fn check_execute(function: Oid) {
    check(function, pg_sys::ObjectType::OBJECT_FUNCTION);
}

/// Raises PostgreSQL's error if the caller may not execute an aggregate.
pub(crate) fn check_execute_aggregate(aggregate: Oid) {
    check(aggregate, pg_sys::ObjectType::OBJECT_AGGREGATE);
}

fn check(function: Oid, kind: pg_sys::ObjectType::Type) {
    if may_execute(function) {
        return;
    }
    // SAFETY: raises an error with the name of a function that exists.
    unsafe {
        pg_sys::aclcheck_error(pg_sys::AclResult::ACLCHECK_NO_PRIV, kind, pg_sys::get_func_name(function));
    }
}

/// Runs `work` as the owner of the registry's tables, with a search path that no other role can write to. Otherwise an
/// operator of the caller could replace one of PostgreSQL. The previous role and settings are restored, after an error
/// too.
pub(crate) fn as_registry_owner<T>(work: impl FnOnce() -> T) -> T {
    struct Restore {
        user: Oid,
        context: i32,
        settings: i32,
    }
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: restores the values from before the work. After an error PostgreSQL restores the settings itself
            // when it ends the transaction or subtransaction.
            unsafe {
                if !std::thread::panicking() {
                    pg_sys::AtEOXact_GUC(true, self.settings);
                }
                pg_sys::SetUserIdAndSecContext(self.user, self.context);
            }
        }
    }
    let mut before = Restore { user: Oid::INVALID, context: 0, settings: 0 };
    // SAFETY: looks up the owner of the schema in the catalog. The flag prevents the work from changing the session's
    // user.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"predict".as_ptr(), false);
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::NAMESPACEOID.cast_signed(), schema.into());
        let owner = if tuple.is_null() {
            caller()
        } else {
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_namespace>();
            let owner = (*form).nspowner;
            pg_sys::ReleaseSysCache(tuple);
            owner
        };
        pg_sys::GetUserIdAndSecContext(&raw mut before.user, &raw mut before.context);
        before.settings = pg_sys::NewGUCNestLevel();
        let _restore = before;
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        pg_sys::SetUserIdAndSecContext(owner, _restore.context | pg_sys::SECURITY_LOCAL_USERID_CHANGE.cast_signed());
        work()
    }
}
