//! Caches the content of versions as files, which all processes of a machine read and map.
//!
//! An entry is a folder named by the hashes of its content. It is written under a temporary name and renamed when it is
//! complete, so a reader always finds a complete entry. The content of an entry never changes.
//!
//! Each file is checked against its hash when it is loaded. A damaged or missing entry is written again from the
//! database. When the cache exceeds its limit, the least recently used entries are removed first.
//!
//! The cache has no lock: the files of a removed entry stay readable for processes that have mapped them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hash::hex;
use crate::onnx::content::Content;
use crate::onnx::external_data;

const MODEL: &str = "model.onnx";
const WEIGHTS: &str = "weights.bin";
const TOKENIZER: &str = "tokenizer.json";
const LIST: &str = "list.json";
/// Prefix of the names of incomplete folders.
const UNFINISHED: &str = "new-";
/// Age after which an incomplete folder is considered abandoned.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// A file cache: a folder of entries.
#[derive(Debug, Clone)]
pub struct Files {
    /// The folder. It is created with the first entry.
    pub folder: PathBuf,
    /// The limit of the total file size, in bytes.
    pub limit: u64,
}

/// A file of an entry, as recorded in the entry's list.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Listed {
    name: String,
    hash: String,
    bytes: u64,
}

/// What a file of a version holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The model file.
    Model,
    /// The tokenizer.
    Tokenizer,
    /// Weights, with the name that the model has for the file.
    Weights(String),
}

/// A complete entry.
#[derive(Debug, Clone)]
pub struct FileEntry {
    folder: PathBuf,
    files: Vec<Listed>,
}

/// Writes a file and computes the hash of the written bytes.
struct Hashed {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Hashed {
    fn create(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), hash: Sha256::new(), bytes: 0 })
    }

    fn finish(mut self, name: &str) -> io::Result<Listed> {
        self.file.flush()?;
        Ok(Listed { name: name.to_owned(), hash: hex(&self.hash.finalize()), bytes: self.bytes })
    }
}

/// Returns whether an external data file may keep its name: a plain file name that no file of the cache uses.
fn is_plain(name: &str) -> bool {
    let ours = [MODEL, WEIGHTS, TOKENIZER, LIST];
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() < 200 && !name.starts_with('.') && name.chars().all(plain) && !ours.contains(&name)
}

impl Files {
    fn place(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the entry with this name, if it exists, and marks it as used.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<FileEntry> {
        let folder = self.place(name);
        let list = folder.join(LIST);
        let files = serde_json::from_slice(&fs::read(&list).ok()?).ok()?;
        // A failure is ignored because it only affects the eviction order.
        let _ = File::options().append(true).open(&list).and_then(|f| f.set_modified(SystemTime::now()));
        Some(FileEntry { folder, files })
    }

    /// Creates an entry. Returns `None` if the content exceeds the limit, or if an external file does not have a plain
    /// file name.
    pub fn keep(&self, name: &str, content: &Content) -> io::Result<Option<FileEntry>> {
        let bytes = content.bytes() as u64;
        if bytes > self.limit || !content.external.iter().all(|(name, _)| is_plain(name)) {
            return Ok(None);
        }
        fs::create_dir_all(&self.folder)?;
        self.make_room(bytes);
        let unfinished = self.folder.join(format!("{UNFINISHED}{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&unfinished);
        let kept = write(&unfinished, content).and_then(|()| {
            let renamed = fs::rename(&unfinished, self.place(name));
            if renamed.is_err() && self.find(name).is_none() {
                // An existing folder at this path is not a complete entry.
                self.drop_entry(name);
                return fs::rename(&unfinished, self.place(name));
            }
            // If the rename failed, another process has created the same entry.
            Ok(())
        });
        let _ = fs::remove_dir_all(&unfinished);
        kept.map(|()| self.find(name))
    }

    /// Removes an entry, for example a damaged one.
    pub fn drop_entry(&self, name: &str) {
        // The folder is renamed first, so that no reader finds a partly removed entry.
        let gone = self.folder.join(format!("{UNFINISHED}{}-gone-{name}", std::process::id()));
        let _ = fs::rename(self.place(name), &gone);
        let _ = fs::remove_dir_all(&gone);
    }

    /// Removes the entries of a model that is no longer stored anywhere.
    pub fn drop_model(&self, hash: &[u8]) {
        let Ok(folder) = fs::read_dir(&self.folder) else { return };
        let names = folder.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(&hex(hash))).for_each(|name| self.drop_entry(&name));
    }

    /// Removes abandoned folders, then the least recently used entries until `needed` more bytes fit.
    fn make_room(&self, needed: u64) {
        let Ok(folder) = fs::read_dir(&self.folder) else { return };
        let mut entries = Vec::new();
        for entry in folder.flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
                if age.is_none_or(|age| age > FORGOTTEN) {
                    let _ = fs::remove_dir_all(&path);
                }
                continue;
            }
            let used = fs::metadata(path.join(LIST)).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            let files = fs::read_dir(&path).map(|d| d.flatten().collect::<Vec<_>>()).unwrap_or_default();
            let bytes: u64 = files.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
            entries.push((used, bytes, path));
        }
        entries.sort();
        let mut all: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if all + needed <= self.limit {
                break;
            }
            let _ = fs::remove_dir_all(&path);
            all = all.saturating_sub(bytes);
        }
    }
}

/// Writes the files of an entry.
fn write(folder: &Path, content: &Content) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    let mut listed = Vec::new();
    let put = |name: &str, bytes: &[u8]| -> io::Result<Listed> {
        let mut file = Hashed::create(&folder.join(name))?;
        file.write_all(bytes)?;
        file.finish(name)
    };
    let mut weights = Hashed::create(&folder.join(WEIGHTS))?;
    match external_data::take_out(&content.model, WEIGHTS, &mut weights)? {
        Some(model) => {
            listed.push(put(MODEL, &model)?);
            listed.push(weights.finish(WEIGHTS)?);
        }
        None => {
            drop(weights);
            fs::remove_file(folder.join(WEIGHTS))?;
            listed.push(put(MODEL, &content.model)?);
        }
    }
    if let Some(tokenizer) = &content.tokenizer {
        listed.push(put(TOKENIZER, tokenizer)?);
    }
    for (name, bytes) in &content.external {
        listed.push(put(name, bytes)?);
    }
    put(LIST, &serde_json::to_vec(&listed)?).map(drop)
}

impl FileEntry {
    /// Returns the path of the model file.
    #[must_use]
    pub fn model(&self) -> PathBuf {
        self.folder.join(MODEL)
    }

    /// Opens the files, and returns each with what it holds and its hash. The content is not checked.
    pub fn open(&self) -> io::Result<Vec<(Part, String, File)>> {
        let part = |name: &str| match name {
            MODEL => Part::Model,
            TOKENIZER => Part::Tokenizer,
            other => Part::Weights(other.to_owned()),
        };
        let open = |f: &Listed| Ok((part(&f.name), f.hash.clone(), File::open(self.folder.join(&f.name))?));
        self.files.iter().map(open).collect()
    }

    /// Returns the total size of the files, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        usize::try_from(self.files.iter().map(|f| f.bytes).sum::<u64>()).unwrap_or(usize::MAX)
    }

    /// Reads the tokenizer and checks its hash. Returns `None` if the entry has no tokenizer.
    pub fn tokenizer(&self) -> io::Result<Option<Vec<u8>>> {
        let Some(listed) = self.files.iter().find(|f| f.name == TOKENIZER) else { return Ok(None) };
        let mut bytes = Vec::new();
        self.check(listed, |part| bytes.extend_from_slice(part))?;
        Ok(Some(bytes))
    }

    /// Checks the hash of the model file, which determines how all other files are read.
    pub fn check_model(&self) -> io::Result<()> {
        self.files.iter().filter(|f| f.name == MODEL).try_for_each(|f| self.check(f, |_| {}))
    }

    /// Checks the hashes of all weight files.
    pub fn check_weights(&self) -> io::Result<()> {
        let mut weights = self.files.iter().filter(|f| f.name != MODEL && f.name != TOKENIZER);
        weights.try_for_each(|f| self.check(f, |_| {}))
    }

    /// Reads a file and compares its hash with the recorded one.
    fn check(&self, listed: &Listed, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut file = File::open(self.folder.join(&listed.name))?;
        let (mut hash, mut part) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            let n = file.read(&mut part)?;
            if n == 0 {
                break;
            }
            hash.update(&part[..n]);
            each(&part[..n]);
        }
        if hex(&hash.finalize()) == listed.hash {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} fails its hash", listed.name)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::options::Options;
    use crate::ort::session::Session;
    use crate::tests::{config, model};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pg_predict-files-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn files(&self, limit: u64) -> Files {
            Files { folder: self.0.clone(), limit }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn content() -> Content {
        Content::of(model("tests/reference/models/credit_isoforest.onnx"))
    }

    fn load(entry: &FileEntry) -> Option<Session> {
        Session::load_files(entry, &Options::default(), &config(Device::Cpu)).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_and_loads() {
        let folder = Folder::new("found");
        let files = folder.files(1 << 30);
        assert!(files.find("a").is_none());
        let entry = files.keep("a", &content()).unwrap().unwrap();
        assert!(load(&entry).is_some() && load(&files.find("a").unwrap()).is_some());
        // Creating the entry again leaves one folder.
        assert!(files.keep("a", &content()).unwrap().is_some());
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_not_loaded_and_can_be_made_anew() {
        let folder = Folder::new("damaged");
        let files = folder.files(1 << 30);
        let entry = files.keep("a", &content()).unwrap().unwrap();
        let mut bytes = fs::read(entry.model()).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(entry.model(), &bytes).unwrap();
        assert!(load(&entry).is_none());
        fs::remove_file(entry.model()).unwrap();
        assert!(load(&entry).is_none());
        files.drop_entry("a");
        assert!(files.find("a").is_none() && load(&files.keep("a", &content()).unwrap().unwrap()).is_some());
        // A folder without its list does not prevent a new entry.
        fs::remove_file(folder.0.join("a").join(LIST)).unwrap();
        assert!(files.find("a").is_none() && files.keep("a", &content()).unwrap().is_some());
    }

    #[test]
    fn the_entries_used_longest_ago_go_first_and_what_is_too_large_is_not_kept() {
        let folder = Folder::new("room");
        let bytes = content().bytes() as u64;
        let files = folder.files(bytes * 5 / 2);
        for name in ["a", "b"] {
            files.keep(name, &content()).unwrap().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        files.find("a").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        files.keep("c", &content()).unwrap().unwrap();
        assert!(files.find("a").is_some() && files.find("b").is_none() && files.find("c").is_some());
        assert!(folder.files(bytes - 1).keep("d", &content()).unwrap().is_none());
        let mut outside = content();
        outside.external.push(("../x".to_owned(), vec![1]));
        assert!(folder.files(1 << 30).keep("e", &outside).unwrap().is_none());
    }

    #[test]
    fn weights_that_are_taken_out_give_the_same_answers() {
        use crate::tests::{floats, wide};
        let folder = Folder::new("weights");
        let model = wide();
        let entry = folder.files(1 << 30).keep("a", &Content::of(model.clone())).unwrap().unwrap();
        assert!(entry.files.iter().any(|f| f.name == WEIGHTS && f.bytes > 1 << 20));
        assert!(fs::metadata(entry.model()).unwrap().len() < 100_000);
        let whole = crate::tests::work_of(&Options::default(), Content::of(model));
        let batch = floats(&whole, 7);
        let stop = crate::ort::stop::Stop::new().unwrap();
        let expected = whole.run(&batch, &stop).unwrap();
        for share_weights in [false, true] {
            let config = crate::ort::environment::Config { share_weights, ..config(Device::Cpu) };
            let mut work = whole.clone();
            work.session =
                std::sync::Arc::new(Session::load_files(&entry, &Options::default(), &config).unwrap().unwrap());
            let got = work.run(&batch, &stop).unwrap();
            let numbers = |ran: &crate::run::RunOutput| match &ran.values[0] {
                crate::batch::Values::Tensor { data, .. } => (0..data.len()).map(|i| data.number(i).unwrap()).collect(),
                _ => Vec::new(),
            };
            let (a, b): (Vec<f64>, Vec<f64>) = (numbers(&got), numbers(&expected));
            assert!(
                a.len() == 7 && a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 + 1e-3 * b.abs()),
                "{a:?} {b:?}"
            );
        }
    }
}
