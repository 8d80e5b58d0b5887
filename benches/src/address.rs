//! Where the server listens, and its programs.

use std::path::PathBuf;

/// Where the server listens, and its programs.
#[derive(Clone)]
pub struct Address {
    /// The directory of the unix socket.
    pub socket: String,
    /// The port, which names the socket's file.
    pub port: u16,
    /// The folder of the server's programs.
    pub programs: PathBuf,
}
