//! The messages that a backend and its model process exchange.
//!
//! Requests and responses lie in shared memory. What needs a descriptor, and what must arrive during a run, goes through
//! a socket, one packet per message.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use pg_predict_engine::file_cache::Part;
use pg_predict_engine::options::Options;
use pg_predict_engine::version::Version;
use serde::{Deserialize, Serialize};

use crate::sandbox::{Limits, Profile};

/// The largest message, in bytes.
const LARGEST: usize = 1 << 16;

/// A message through the socket, from the backend to the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// The first message. Its descriptor is the control block.
    Hello(Start),
    /// A new region of a slot. Its descriptor is the region.
    Region {
        /// The slot.
        slot: u32,
        /// Whether the region is for responses.
        response: bool,
    },
    /// A file of the session that will be loaded under this number. Its descriptor is the file.
    File {
        /// The number of the session.
        session: u64,
    },
    /// The backend no longer needs the answer to a request.
    Stop {
        /// The slot.
        slot: u32,
        /// The number of the request.
        number: u32,
    },
    /// The backend no longer needs a session.
    Unload {
        /// The number of the session.
        session: u64,
    },
    /// The backend no longer needs a prepared run.
    Release {
        /// The number of the prepared run.
        plan: u64,
    },
    /// The process may end after it has been idle for this time in milliseconds. 0: never.
    IdleTimeout(u64),
}

/// How a process starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The path of the ONNX Runtime library.
    pub library: String,
    /// The profile of the sandbox.
    pub profile: Profile,
    /// The limits of the process.
    pub limits: Limits,
}

/// A file of a version. Its descriptor is sent with `Message::File`, in the same order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilePart {
    /// What the file holds.
    pub part: Part,
    /// The sha256 that the content must have, in hexadecimal.
    pub hash: String,
}

/// A request to load a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadRequest {
    /// The number of the session.
    pub session: u64,
    /// The device that it runs on.
    pub device: String,
    /// The number of threads inside one run.
    pub threads: usize,
    /// The memory that the session needs, as validation measured it.
    pub session_bytes: usize,
    /// Whether the weights are used where they are, without packing them for the CPU.
    pub share_weights: bool,
    /// The most GPU memory that the session may use, in bytes.
    pub gpu_memory: Option<usize>,
    /// The options of the version.
    pub options: Options,
    /// The files.
    pub files: Vec<FilePart>,
}

/// The response to `LoadRequest`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// The bytes that the session is assumed to need.
    pub bytes: usize,
    /// The reason if the device `auto` fell back to the CPU.
    pub fallback: Option<String>,
}

/// A request to prepare runs of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrepareRequest {
    /// The number of the prepared run.
    pub plan: u64,
    /// The number of the session.
    pub session: u64,
    /// The version: its signature and options.
    pub version: Version,
    /// Whether each output is wanted.
    pub wanted: Vec<bool>,
    /// Whether a failed batch returns the rows before the first row that fails by itself.
    pub finds_failure: bool,
}

/// The most descriptors that the kernel sends with one packet (`SCM_MAX_FD`).
const MOST_DESCRIPTORS: usize = 253;

/// Sends a packet, with a descriptor if one is given. Waits for at most a second for room.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let parts = [IoSlice::new(bytes)];
    let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<UnixAddr>(socket.as_raw_fd(), &parts, control, flags, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Sends a message.
pub fn send_message(socket: BorrowedFd<'_>, message: &Message, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    send(socket, &serde_json::to_vec(message)?, descriptor)
}

/// Receives a packet, and the descriptor that came with it. Returns an empty packet at the end of the stream, and `None`
/// if there is no packet and `wait` is false.
pub fn receive(socket: BorrowedFd<'_>, wait: bool) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut bytes = vec![0; LARGEST];
    // Room for all descriptors that a packet can have. Those beyond the room would stay open, owned by nobody.
    let mut room = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let wait = if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
    let (length, descriptors) = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = wait | MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags) {
            Ok(message) => {
                let mut descriptors = Vec::new();
                for part in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = part {
                        // SAFETY: the kernel has just opened these descriptors for this process, and nothing else owns
                        // them.
                        descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                break (message.bytes, descriptors);
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            // A process that ended without reading everything resets the connection.
            Err(Errno::ECONNRESET) => return Ok(Some((Vec::new(), None))),
            Err(e) => return Err(e.into()),
        }
    };
    bytes.truncate(length);
    Ok(Some((bytes, descriptors.into_iter().next())))
}

/// Makes sending wait for at most `time` for room in the socket.
pub fn set_send_timeout(socket: &OwnedFd, time: Duration) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt::SendTimeout};
    use nix::sys::time::{TimeVal, TimeValLike};
    let milliseconds = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Ok(setsockopt(socket, SendTimeout, &TimeVal::milliseconds(milliseconds))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn no_descriptor_of_a_packet_with_many_stays_open() {
        let (a, b) = pair();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let file = crate::memory::sealed_file(&[b"content"]).unwrap();
        let before = open();
        for count in [5, MOST_DESCRIPTORS] {
            let raw = vec![file.as_raw_fd(); count];
            let control = [ControlMessage::ScmRights(&raw)];
            sendmsg::<UnixAddr>(a.as_raw_fd(), &[IoSlice::new(b"x")], &control, MsgFlags::empty(), None).unwrap();
            drop(receive(b.as_fd(), true).unwrap());
        }
        // Other tests of this process open and close files at the same time, but never so many.
        assert!(open() < before + 5, "{} descriptors instead of {before}", open());
    }

    #[test]
    fn messages_arrive_whole_with_their_descriptor() {
        let (a, b) = pair();
        assert!(receive(b.as_fd(), false).unwrap().is_none());
        let file = crate::memory::sealed_file(&[b"content"]).unwrap();
        let message = Message::File { session: 7 };
        send_message(a.as_fd(), &message, Some(file.as_fd())).unwrap();
        send_message(a.as_fd(), &Message::IdleTimeout(5), None).unwrap();
        let (bytes, descriptor) = receive(b.as_fd(), true).unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Message>(&bytes).unwrap(), message);
        let mapped = crate::memory::SharedMemory::map_to_read(descriptor.unwrap()).unwrap();
        assert_eq!(mapped.copy_out::<u8>(0, 7), Some(b"content".to_vec()));
        let (bytes, descriptor) = receive(b.as_fd(), true).unwrap().unwrap();
        assert!(descriptor.is_none());
        assert_eq!(serde_json::from_slice::<Message>(&bytes).unwrap(), Message::IdleTimeout(5));
        drop(a);
        assert_eq!(receive(b.as_fd(), true).unwrap().unwrap().0, b"");
    }

    #[test]
    fn a_side_that_does_not_read_does_not_hold_up_the_other() {
        let (a, _b) = pair();
        set_send_timeout(&a, Duration::from_millis(20)).unwrap();
        let packet = vec![0; LARGEST];
        let error = (0..1000).find_map(|_| send(a.as_fd(), &packet, None).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
