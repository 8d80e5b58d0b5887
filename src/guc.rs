//! Every setting: its definition, its check, its typed getter. Alphabetical.

use std::ffi::CString;

use pg_predict_engine::device::Device;
use pg_predict_engine::files::Files;
use pg_predict_engine::options::{MAX_BATCH_SIZE, MAX_THREADS};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// The folder of the file cache, in the data directory. Its name is one that base backups leave out.
const FILE_CACHE: &str = "pgsql_tmp_pg_predict";

// 0: the version knows, from its options or the probe's measure.
static BATCH_SIZE: GucSetting<i32> = GucSetting::<i32>::new(0);
// Empty: the version knows; cpu where it says nothing.
static DEVICE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
// Off is for finding out what the node gives.
static ENABLE_BATCH_SCAN: GucSetting<bool> = GucSetting::<bool>::new(true);
// Room for some hundred models of ordinary size; the least recently used go.
static FILE_CACHE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(10 * 1024);
// 0: all of the card, as ONNX Runtime does by itself.
static GPU_MEMORY_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(0);
// Two pairs of buffers of 4096 rows x 1000 float32 columns are 32 MB; twice that leaves room for wide text.
static MAX_BATCH_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(64 * 1024);
// Empty: the library that `make install` put beside this one.
static ONNXRUNTIME_LIBRARY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
// Off is for finding out what the overlap gives, and for machines with one core.
static PIPELINE: GucSetting<bool> = GucSetting::<bool>::new(true);
// A 1 GB model needs its bytes, ONNX Runtime's copy and the packed weights at once.
static PROBE_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(4096);
// A 1 GB model loads and runs in some 10 s.
static PROBE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
// Silence, as of any other query.
static PROGRESS_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(0);
// A handful of models of ordinary size; per backend, so that a hundred backends still fit a server.
static SESSION_CACHE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1024);
// 0: a session stays until its backend ends or its room is needed, as a prepared statement does.
static SESSION_IDLE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(0);
// Off: weights packed for the processor run faster, and memory is there as a rule.
static SHARE_WEIGHTS: GucSetting<bool> = GucSetting::<bool>::new(false);
// One: parallel workers use more cores better than threads inside a run do, and leave other backends theirs.
static THREADS: GucSetting<i32> = GucSetting::<i32>::new(0);

/// Defines every setting and reserves the prefix.
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
        c"Plans queries so that plain calls of models run in batches.",
        c"Off runs the model once a row. A plan that is cached stays as it was made.",
        &ENABLE_BATCH_SCAN,
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
    GucRegistry::define_string_guc(
        c"pg_predict.onnxruntime_library",
        c"Path of the ONNX Runtime library.",
        c"Empty takes libonnxruntime.so in the directory pg_predict beside this extension's library. Read at the first use in a session.",
        &ONNXRUNTIME_LIBRARY,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_bool_guc(
        c"pg_predict.pipeline",
        c"Fills the next batch while one runs.",
        c"",
        &PIPELINE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_predict.probe_memory",
        c"Address space of the process that tries a model when a version is created.",
        c"",
        &PROBE_MEMORY,
        256,
        1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"pg_predict.probe_timeout",
        c"Time that trying a model may take when a version is created.",
        c"",
        &PROBE_TIMEOUT,
        100,
        3_600_000,
        GucContext::Suset,
        GucFlags::UNIT_MS,
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
    crate::pg::setting::reserve_prefix(c"pg_predict");
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    setting.get().map(|s| s.to_string_lossy().into_owned()).filter(|s| !s.is_empty())
}

/// Rows that are run together, where the user says so.
pub(crate) fn batch_size() -> Option<usize> {
    usize::try_from(BATCH_SIZE.get()).ok().filter(|n| *n > 0)
}

/// Where models run, where the user says so.
pub(crate) fn device() -> Option<Device> {
    text(&DEVICE).and_then(|t| t.parse().ok())
}

/// Whether plans get BatchPredict nodes.
pub(crate) fn enable_batch_scan() -> bool {
    ENABLE_BATCH_SCAN.get()
}

/// The value of a setting that has no values below zero.
fn whole(setting: &GucSetting<i32>) -> u32 {
    setting.get().max(0).unsigned_abs()
}

/// A limit, as the highest value that an integer setting takes.
fn highest(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

/// The file cache; none where it may take nothing.
pub(crate) fn files() -> Option<Files> {
    let limit = u64::try_from(FILE_CACHE_SIZE.get()).ok().filter(|n| *n > 0)? << 20;
    Some(Files { folder: crate::pg::setting::data_directory().join(FILE_CACHE), limit })
}

/// Bytes of a card that one session may take; none for all.
pub(crate) fn gpu_memory_limit() -> Option<usize> {
    usize::try_from(GPU_MEMORY_LIMIT.get()).ok().filter(|n| *n > 0).map(|n| n << 20)
}

/// Bytes that rows waiting for a batch may take.
pub(crate) fn max_batch_memory() -> usize {
    whole(&MAX_BATCH_MEMORY) as usize * 1024
}

/// Path of the ONNX Runtime library.
pub(crate) fn onnxruntime_library() -> String {
    text(&ONNXRUNTIME_LIBRARY)
        .unwrap_or_else(|| format!("{}/pg_predict/libonnxruntime.so", crate::pg::setting::library_directory()))
}

/// Whether the next batch is filled while one runs.
pub(crate) fn pipeline() -> bool {
    PIPELINE.get()
}

/// Path of the probe program.
pub(crate) fn probe_program() -> String {
    format!("{}/pg_predict/pg_predict_probe", crate::pg::setting::library_directory())
}

/// Bytes of address space of the probe.
pub(crate) fn probe_memory() -> u64 {
    u64::from(whole(&PROBE_MEMORY)) * 1024 * 1024
}

/// Time that the probe may take.
pub(crate) fn probe_timeout() -> std::time::Duration {
    std::time::Duration::from_millis(whole(&PROBE_TIMEOUT).into())
}

/// Time between two words of a query about how far it is; zero for none.
pub(crate) fn progress_interval() -> std::time::Duration {
    std::time::Duration::from_millis(whole(&PROGRESS_INTERVAL).into())
}

/// Bytes that loaded models may take.
pub(crate) fn session_cache_size() -> usize {
    whole(&SESSION_CACHE_SIZE) as usize * 1024 * 1024
}

/// Milliseconds after which a session that nobody uses is dropped; 0 for never.
pub(crate) fn session_idle_timeout() -> u64 {
    whole(&SESSION_IDLE_TIMEOUT).into()
}

/// Whether weights stay in their file.
pub(crate) fn share_weights() -> bool {
    SHARE_WEIGHTS.get()
}

/// Threads inside one run, where the user says so.
pub(crate) fn threads() -> Option<usize> {
    usize::try_from(THREADS.get()).ok().filter(|n| *n > 0)
}
