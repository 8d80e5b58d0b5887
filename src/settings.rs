//! Defines every setting (GUC) with its check and its typed getter, in alphabetical order.

use std::ffi::CString;

use pg_predict_engine::device::Device;
use pg_predict_engine::file_cache::Files;
use pg_predict_engine::options::{MAX_BATCH_SIZE, MAX_THREADS};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

/// The folder of the file cache in the data directory. Base backups exclude names that start with `pgsql_tmp`.
const FILE_CACHE: &str = "pgsql_tmp_pg_predict";

/// Where models run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum Isolation {
    #[name = c"process"]
    Process,
    #[name = c"backend"]
    Backend,
}

// 0: use the batch size of the version, from its options or as measured during validation.
static BATCH_SIZE: GucSetting<i32> = GucSetting::<i32>::new(0);
// Empty: use the device of the version, or cpu if the version has none.
static DEVICE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
// Off serves to measure the effect of the plan node.
static ENABLE_BATCH_SCAN: GucSetting<bool> = GucSetting::<bool>::new(true);
// Off serves to measure the effect of pipelining, and for machines with one core.
static ENABLE_PIPELINING: GucSetting<bool> = GucSetting::<bool>::new(true);
// Holds some hundred models of ordinary size. The least recently used are evicted.
static FILE_CACHE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(10 * 1024);
// 0: no limit, which is ONNX Runtime's own default.
static GPU_MEMORY_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(0);
// The process protects the server from models.
static ISOLATION: GucSetting<Isolation> = GucSetting::<Isolation>::new(Isolation::Process);
// Two pairs of buffers of 4096 rows x 1000 float32 columns need 32 MB. Twice that leaves room for wide text.
static MAX_BATCH_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(64 * 1024);
// Long enough for a pooled connection that predicts now and then, short enough that idle ones hold no models for hours.
static MODEL_PROCESS_IDLE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(300_000);
// Holds the default session cache, ONNX Runtime and large batches. It is address space, which is more than memory.
static MODEL_PROCESS_MEMORY_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(8 * 1024);
// Empty: use the library that `make install` put beside this one.
static ONNXRUNTIME_LIBRARY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
// 0: no notices, like any other query.
static PROGRESS_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(0);
// Holds a few models of ordinary size. The limit is per backend, so a hundred backends must still fit on a server.
static SESSION_CACHE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1024);
// 0: a session stays loaded until its backend ends or it is evicted, as a prepared statement does.
static SESSION_IDLE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(0);
// Off by default: weights packed for the CPU run faster, and memory is usually available.
static SHARE_WEIGHTS: GucSetting<bool> = GucSetting::<bool>::new(false);
// 0: use the threads of the version, or 1. Parallel workers use several cores better than threads inside a run, and one
// thread leaves cores to other backends.
static THREADS: GucSetting<i32> = GucSetting::<i32>::new(0);
// Validation of a 1 GB model needs its bytes, ONNX Runtime's copy and the packed weights at once.
static VALIDATION_MEMORY_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(4096);
// A 1 GB model loads and runs in about 10 s.
static VALIDATION_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);

/// Defines every setting and reserves the prefix `pg_predict`.
pub(crate) fn define() {
    GucRegistry::define_int_guc(
        c"pg_predict.batch_size",
        c"Rows that are run together.",
        c"0 takes the version's own: its option batch_size, or what was measured when it was created.",
        &BATCH_SIZE,
        0,
        highest(MAX_BATCH_SIZE),
        GucContext::Userset,
        GucFlags::default(),
    );
    crate::pg::setting::define_checked_string(
        c"pg_predict.device",
        c"Where models run: cpu, cuda, cuda:N or auto.",
        c"Empty takes the version's own, else cpu. cuda is an error where there is none; only auto falls back.",
        &DEVICE,
        GucContext::Userset,
        |text| text.is_empty() || text.parse::<Device>().is_ok(),
    );
    GucRegistry::define_bool_guc(
        c"pg_predict.enable_batch_scan",
        c"Plans queries so that plain calls of models run in batches, and predictions() is streamed.",
        c"Off runs the model once a row. A plan that is cached stays as it was made.",
        &ENABLE_BATCH_SCAN,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"pg_predict.enable_pipelining",
        c"Fills the next batch while one runs.",
        c"",
        &ENABLE_PIPELINING,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_predict.file_cache_size",
        c"Disk space that models may take in the file cache, from which sessions are loaded.",
        c"It is a folder in the data directory. The least recently used go first; what is lost is made anew. 0 keeps no files.",
        &FILE_CACHE_SIZE,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"pg_predict.gpu_memory_limit",
        c"Memory of a card that one session may take.",
        c"0 sets no limit. Read when a session is loaded.",
        &GPU_MEMORY_LIMIT,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_enum_guc(
        c"pg_predict.isolation",
        c"Where models run: in a sandboxed process of their own (process) or in the backend (backend).",
        c"In the backend, a model that crashes restarts the server.",
        &ISOLATION,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_predict.max_batch_memory",
        c"Memory that rows waiting for a batch may take, per call in a query.",
        c"A batch that would grow beyond it is run with fewer rows.",
        &MAX_BATCH_MEMORY,
        64,
        1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"pg_predict.model_process_idle_timeout",
        c"Time after which an idle model process ends.",
        c"The next prediction starts another one. 0 keeps it as long as its backend.",
        &MODEL_PROCESS_IDLE_TIMEOUT,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pg_predict.model_process_memory_limit",
        c"Address space of a model process.",
        c"0 sets no limit. A process that is running is replaced when the limit changes.",
        &MODEL_PROCESS_MEMORY_LIMIT,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_string_guc(
        c"pg_predict.onnxruntime_library",
        c"Path of the ONNX Runtime library.",
        c"Empty takes libonnxruntime.so in the directory pg_predict beside this extension's library. Read at the first use in a session.",
        &ONNXRUNTIME_LIBRARY,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_int_guc(
        c"pg_predict.progress_interval",
        c"Time after which a query that predicts says how far it is, as a notice, again and again.",
        c"0 says nothing.",
        &PROGRESS_INTERVAL,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pg_predict.session_cache_size",
        c"Memory that loaded models may take in one backend.",
        c"The least recently used is dropped first; one that a running query uses stays.",
        &SESSION_CACHE_SIZE,
        1,
        1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"pg_predict.session_idle_timeout",
        c"Time after which a loaded model that nobody uses is dropped.",
        c"0 keeps it. What the last query set holds while a backend is idle.",
        &SESSION_IDLE_TIMEOUT,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"pg_predict.share_weights",
        c"Runs models on weights that all backends share, in the file cache.",
        c"Large weights are mapped and not packed for the processor: less memory for each backend, and slower runs.",
        &SHARE_WEIGHTS,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_predict.threads",
        c"Threads inside one run of a model.",
        c"0 takes the version's own, else 1.",
        &THREADS,
        0,
        highest(MAX_THREADS),
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_predict.validation_memory_limit",
        c"Address space of the process that validates a model when a version is created.",
        c"",
        &VALIDATION_MEMORY_LIMIT,
        256,
        1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"pg_predict.validation_timeout",
        c"Time that the validation of a model may take when a version is created.",
        c"",
        &VALIDATION_TIMEOUT,
        100,
        3_600_000,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    crate::pg::setting::reserve_prefix(c"pg_predict");
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    setting.get().map(|s| s.to_string_lossy().into_owned()).filter(|s| !s.is_empty())
}

/// The batch size that the user set, if any.
pub(crate) fn batch_size() -> Option<usize> {
    usize::try_from(BATCH_SIZE.get()).ok().filter(|n| *n > 0)
}

/// The device that the user set, if any.
pub(crate) fn device() -> Option<Device> {
    text(&DEVICE).and_then(|t| t.parse().ok())
}

/// Whether the planner adds BatchPredict nodes.
pub(crate) fn enable_batch_scan() -> bool {
    ENABLE_BATCH_SCAN.get()
}

/// Whether the next batch is filled while the current one runs.
pub(crate) fn enable_pipelining() -> bool {
    ENABLE_PIPELINING.get()
}

/// The value of a setting that has no negative values.
fn whole(setting: &GucSetting<i32>) -> u32 {
    setting.get().max(0).unsigned_abs()
}

/// Converts a limit to the maximum of an integer setting.
fn highest(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

/// The file cache, or `None` if its size limit is 0.
pub(crate) fn files() -> Option<Files> {
    let limit = u64::try_from(FILE_CACHE_SIZE.get()).ok().filter(|n| *n > 0)? << 20;
    Some(Files { folder: crate::pg::setting::data_directory().join(FILE_CACHE), limit })
}

/// GPU memory per session in bytes, or `None` for no limit.
pub(crate) fn gpu_memory_limit() -> Option<usize> {
    usize::try_from(GPU_MEMORY_LIMIT.get()).ok().filter(|n| *n > 0).map(|n| n << 20)
}

/// Whether models run in a model process.
pub(crate) fn is_isolated() -> bool {
    ISOLATION.get() == Isolation::Process
}

/// Memory in bytes that rows waiting for a batch may use.
pub(crate) fn max_batch_memory() -> usize {
    whole(&MAX_BATCH_MEMORY) as usize * 1024
}

/// Path of the ONNX Runtime library.
pub(crate) fn onnxruntime_library() -> String {
    text(&ONNXRUNTIME_LIBRARY)
        .unwrap_or_else(|| format!("{}/pg_predict/libonnxruntime.so", crate::pg::setting::library_directory()))
}

/// Time in milliseconds after which an idle model process ends. 0 disables the timeout.
pub(crate) fn model_process_idle_timeout() -> u64 {
    whole(&MODEL_PROCESS_IDLE_TIMEOUT).into()
}

/// Limit on the address space of a model process in bytes, or `None` for no limit.
pub(crate) fn model_process_memory_limit() -> Option<u64> {
    Some(u64::from(whole(&MODEL_PROCESS_MEMORY_LIMIT)) << 20).filter(|n| *n > 0)
}

/// Path of the program of the model process.
pub(crate) fn model_process_program() -> String {
    format!("{}/pg_predict/pg_predict_model_process", crate::pg::setting::library_directory())
}

/// Interval between progress notices. Zero disables them.
pub(crate) fn progress_interval() -> std::time::Duration {
    std::time::Duration::from_millis(whole(&PROGRESS_INTERVAL).into())
}

/// Memory in bytes that loaded models may use in one backend.
pub(crate) fn session_cache_size() -> usize {
    whole(&SESSION_CACHE_SIZE) as usize * 1024 * 1024
}

/// Time in milliseconds after which an unused session is dropped. 0 disables the timeout.
pub(crate) fn session_idle_timeout() -> u64 {
    whole(&SESSION_IDLE_TIMEOUT).into()
}

/// Whether sessions map weights from the file cache instead of packing them for the CPU.
pub(crate) fn share_weights() -> bool {
    SHARE_WEIGHTS.get()
}

/// Threads per run that the user set, if any.
pub(crate) fn threads() -> Option<usize> {
    usize::try_from(THREADS.get()).ok().filter(|n| *n > 0)
}

/// Limit on the address space of the validation process, in bytes.
pub(crate) fn validation_memory_limit() -> u64 {
    u64::from(whole(&VALIDATION_MEMORY_LIMIT)) * 1024 * 1024
}

/// Time limit of validation.
pub(crate) fn validation_timeout() -> std::time::Duration {
    std::time::Duration::from_millis(whole(&VALIDATION_TIMEOUT).into())
}
